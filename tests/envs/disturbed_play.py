"""Helpers for tests of disturbances: play fixed actions and record which were executed."""

import gymnasium as gym
import numpy as np

from ebt_policy.envs import environment
from ebt_policy.envs.registry import make_disturbed

PUSHT = "pusht_keypoints"
SEED = 3


def shoves(ticks: int) -> np.ndarray:
    """Targets of PushT's pusher that keep shoving the block about in the undisturbed episode of SEED."""
    env = environment(PUSHT).make(False)
    env.reset(seed=SEED)
    targets = []
    for tick in range(ticks):
        around = 50 * np.array([np.cos(tick / 5), np.sin(tick / 5)])
        target = np.clip(
            env.unwrapped.block.center_of_gravity + env.unwrapped.block.position + around, 80, 430
        )
        targets.append(target.astype(np.float32))
        env.step(targets[-1])
    return np.stack(targets)


def play(env, seed: int, actions):
    """(reset info, observations, infos); observation 0 is that of the reset, n + 1 that of tick n."""
    observation, plan = env.reset(seed=seed)
    observations, infos = [observation], []
    for action in actions:
        observation, _, terminated, truncated, info = env.step(action)
        observations.append(observation)
        infos.append(info)
        if terminated or truncated:
            break
    return plan, observations, infos


def same(first, second) -> bool:
    if isinstance(first, dict):
        return all(same(first[key], second[key]) for key in first)
    return np.array_equal(first, second)


class Recorder(gym.Env):
    """Remembers what is executed. Observes the tick's number."""

    def __init__(self, size: int) -> None:
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gym.spaces.Dict(
            {name: gym.spaces.Box(-np.inf, np.inf, (7,)) for name in ("agent_pos", "environment_state")}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.executed: list[np.ndarray] = []
        return self._look(), {}

    def step(self, action):
        self.executed.append(np.array(action))
        return self._look(), 0.0, False, False, {}

    def _look(self):
        tick = len(self.executed)
        return {"agent_pos": np.full(7, tick, float), "environment_state": np.full(7, 100.0 + tick)}


def commands(name: str, kind: str, ticks: int = 140):
    """(the plan, what was sent, what was executed) in `name`, without its simulator."""
    spec = environment(name)
    size = 14 if name.startswith("aloha") else 7
    env = make_disturbed(lambda: Recorder(size), spec.name, kind)
    sent = np.random.default_rng(0).uniform(-1, 1, (ticks, size))
    play(env, SEED, sent)
    return env.get_wrapper_attr("disturbance"), sent, np.stack(env.unwrapped.executed)
