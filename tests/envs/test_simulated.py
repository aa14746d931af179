"""Adroit, ALOHA and robosuite environments meet the same contract."""

import numpy as np
import pytest

from ebt_policy.envs import environment
from ebt_policy.envs.aloha import TASKS as ALOHA
from ebt_policy.envs.aloha import make as make_aloha
from ebt_policy.envs.robosuite_tasks import make as make_robosuite
from ebt_policy.envs.simulated import Diverged, Score, SimulatedEnv

NAMES = ["adroit_door", "aloha_transfer_cube", "aloha_insertion", "robosuite_lift"]
SLOW = [
    "robosuite_stack",
    "robosuite_pickplacecan",
    "robosuite_nutassemblysquare",
    "robosuite_door",
    "robosuite_toolhang",
]


class Counter:
    """A simulator that is solved from its third tick on, but for the fifth."""

    def __init__(self) -> None:
        self.ticks = 0

    def reset(self, seed: int) -> None:
        self.ticks = 0

    def tick(self, action: np.ndarray) -> None:
        self.ticks += 1

    def state(self) -> np.ndarray:
        return np.zeros(14)

    def environment_state(self) -> np.ndarray:
        return np.zeros(7)

    def score(self) -> Score:
        solved = self.ticks >= 3 and self.ticks != 5
        return Score(float(solved), solved)

    def picture(self, camera: str, height: int, width: int) -> np.ndarray:
        raise AssertionError("nothing should be drawn")


class Bomb(Counter):
    """Blows up at its fourth tick, after it was solved."""

    def tick(self, action: np.ndarray) -> None:
        super().tick(action)
        if self.ticks == 4:
            raise Diverged("too fast")


def test_an_episode_whose_physics_diverges_ends_unsolved():
    env = SimulatedEnv(ALOHA["transfer_cube"], Bomb, hold_ticks=3)
    env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(np.zeros(14))
    last, _, terminated, _, info = env.step(np.zeros(14))
    assert terminated and not info["is_success"] and info["diverged"]
    assert all(np.array_equal(last[key], observation[key]) for key in observation)


def test_violent_actions_do_not_stop_a_rollout():
    pytest.importorskip("gym_aloha")
    env = make_aloha("insertion")
    env.action_space.seed(0)
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(150):
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            assert np.isfinite(observation["agent_pos"]).all()
            if terminated or truncated:
                break
    env.close()


def solved_after(hold_ticks: int) -> int:
    env = SimulatedEnv(ALOHA["transfer_cube"], Counter, hold_ticks=hold_ticks)
    env.reset(seed=0)
    for tick in range(1, 50):
        _, _, terminated, _, info = env.step(np.zeros(14))
        assert terminated == info["is_success"]
        if terminated:
            return tick
    raise AssertionError


def test_success_has_to_be_held_for_ticks_in_a_row() -> None:
    assert solved_after(1) == 3
    assert solved_after(2) == 4
    assert solved_after(3) == 8


def test_the_simulator_is_made_at_the_first_reset() -> None:
    def refuse() -> Counter:
        raise RuntimeError("made")

    env = SimulatedEnv(ALOHA["transfer_cube"], refuse)
    with pytest.raises(RuntimeError, match="made"):
        env.reset(seed=0)


def episode(env, seed: int, ticks: int = 12) -> list[np.ndarray]:
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(ticks):
        seen.append(np.concatenate([observation["agent_pos"], observation["environment_state"]]))
        low, high = env.action_space.low, env.action_space.high
        observation, *_ = env.step(rng.uniform(low, high) * 0.2)
    return seen


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_seed_determines_the_episode(name: str) -> None:
    spec = environment(name)
    env = spec.make(False)
    first = episode(env, 5)
    other = episode(env, 6)
    np.random.random(3)  # whatever else happened in the process
    np.testing.assert_array_equal(first, episode(env, 5))
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(first, episode(spec.make(False), 5))


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_sees_what_the_space_says(name: str) -> None:
    spec = environment(name)
    env = spec.make(False)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert not spec.success(info)
    seen = spec.to_policy(observation)
    assert set(seen) == {"observation.state", "observation.environment_state"}
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in seen.values())


def test_the_global_generator_is_left_as_it_was() -> None:
    env = make_robosuite("Lift")
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    env.reset(seed=11)
    assert np.random.random() == expected


def test_an_episode_ends_at_the_published_limit() -> None:
    env = make_aloha("transfer_cube", max_ticks=3)
    observation, _ = env.reset(seed=0)
    truncated = [env.step(observation["agent_pos"])[3] for _ in range(3)]
    assert truncated == [False, False, True]
    assert environment("aloha_insertion").max_ticks == 400
    assert environment("robosuite_toolhang").max_ticks == 700


def test_holding_the_start_pose_keeps_the_arms_and_solves_nothing() -> None:
    env = make_aloha("transfer_cube")
    observation, _ = env.reset(seed=0)
    start = observation["agent_pos"]
    for _ in range(20):
        observation, score, *_ = env.step(start)
    assert np.abs(observation["agent_pos"] - start).max() < 0.05
    assert score == 0
