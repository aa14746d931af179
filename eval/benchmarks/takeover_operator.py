"""A scripted operator in the simulation: an expert takes over from the policy at a trigger, and what it shows is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs import EnvSpec
from ebt_policy.envs.experts import Expert, expert
from ebt_policy.errors import UserError

NOISE = 0.1  # on the expert's executed actions, as in the demonstrations that `ebt-policy collect` makes
_RANDOM = (
    7  # number of the generator that draws times, so that it is no other generator of the episode's seed
)

# (seed, tick, watch) -> whether to take over before this decision
Trigger = Callable[[int, int, Any], bool]


def trigger(kind: str, usual_ticks: int) -> Trigger:
    """alarm: the calibrated score alarms. random: from a tick drawn uniformly within the length of a usual episode. fixed: from
    its middle. start: from the first tick, which makes a whole demonstration. Raises UserError for another kind.
    """
    if kind == "alarm":
        return lambda seed, tick, watch: watch.readings[-1].alarm
    if kind == "random":
        return lambda seed, tick, watch: tick >= _drawn(seed, usual_ticks)
    if kind == "fixed":
        return lambda seed, tick, watch: tick >= usual_ticks // 2
    if kind == "start":
        return lambda seed, tick, watch: True
    raise UserError(f"There is no trigger '{kind}'. Triggers: alarm, random, fixed, start.")


def _drawn(seed: int, ticks: int) -> int:
    return int(np.random.default_rng([seed, _RANDOM]).integers(ticks))


@dataclass(frozen=True)
class Intervention:
    """One takeover. tick: of the episode, when it began. ticks: that the expert drove. frames: feature -> (ticks, ...).

    pictures: after each of these ticks, uint8 (H, W, 3), where the operator films.
    """

    env: str
    seed: int
    tick: int
    ticks: int
    solved: bool
    frames: dict[str, NDArray[np.float32]] = field(repr=False)
    pictures: list[NDArray[np.uint8]] = field(default_factory=list, repr=False)


class ScriptedOperator:
    """Takes over at the trigger and drives until the task is solved, `limit` ticks at most; see `Operator`.

    The time limit of the episode does not hold for it, as the time of correcting does not count in `deploy`; a disturbance that
    has not come yet still comes.
    """

    def __init__(self, env: str, wants: Trigger, limit: int, film: bool = False) -> None:
        """env: with or without a disturbance. film: keep pictures, of envs that render. Raises UserError where it has no expert."""
        self._expert: Expert = expert(env.partition("+")[0], NOISE)
        self._env, self._wants, self._limit = env, wants, limit
        self._tick, self._film = 0, film
        self.interventions: list[Intervention] = []

    def takes_over(self, seed: int, tick: int, watch: Any) -> bool:
        self._tick = tick
        return self._wants(seed, tick, watch)

    def drive(self, spec: EnvSpec, env: gym.Env, seed: int, observation: dict[str, np.ndarray]) -> None:
        if any(name.startswith("observation.images") for name in observation):
            raise UserError(
                "The scripted operator records no cameras yet. Use a policy that sees the objects' poses."
            )
        _lift_time_limit(env)
        space: Any = env.action_space
        self._expert.reset(env.unwrapped.simulator, seed)  # type: ignore[attr-defined]
        rows: dict[str, list[NDArray]] = {}
        pictures: list[NDArray[np.uint8]] = []
        solved = False
        for _ in range(self._limit):
            chosen = self._expert.act()
            if chosen is None:
                break
            recorded, executed = (np.clip(action, space.low, space.high) for action in chosen)
            for name, value in {**observation, "action": recorded}.items():
                rows.setdefault(name, []).append(np.asarray(value, np.float32))
            seen, _, terminated, _, info = env.step(executed)
            observation, solved = spec.to_policy(seen), spec.success(info)
            if self._film:
                pictures.append(np.asarray(env.render()))
            if solved or terminated:
                break
        frames = {name: np.stack(values) for name, values in rows.items()}
        count = len(rows.get("action", ()))
        self.interventions.append(Intervention(self._env, seed, self._tick, count, solved, frames, pictures))


def _lift_time_limit(env: gym.Env) -> None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            env._max_episode_steps = np.iinfo(np.int64).max
        env = env.env
