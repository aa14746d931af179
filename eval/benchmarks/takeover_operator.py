"""A scripted operator in the simulation: an expert takes over from the policy at a trigger, and what it shows is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs import EnvSpec
from ebt_policy.envs.experts import Expert, expert
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.rollout import WatchedDecider, rollout

NOISE = 0.1  # on the expert's executed actions, as in the demonstrations that `ebt-policy collect` makes
_RANDOM = (
    7  # number of the generator that draws times, so that it is no other generator of the episode's seed
)

# (seed, tick, watch) -> whether to take over before this decision
Trigger = Callable[[int, int, Any], bool]
# (policy, env, seeds) -> the trigger for these episodes
Foresight = Callable[[WatchedDecider, str, Sequence[int]], Trigger]


def foresight(kind: str, usual_ticks: int) -> Foresight:
    """The kinds of `trigger`, and oracle: see there. Raises UserError for another kind."""
    if kind == "oracle":
        return oracle
    usual = trigger(kind, usual_ticks)
    return lambda policy, env, seeds: usual


def oracle(policy: WatchedDecider, env: str, seeds: Sequence[int]) -> Trigger:
    """Sees failures coming: the policy plays each episode alone first. Where it fails, the operator takes over after the last tick of
    its highest coverage, from which on it got no further, but not before the disturbance; elsewhere never. An upper bound: no
    operator knows this.
    """
    with one_thread():
        alone = rollout(policy, env, seeds)
    return at_ticks({one.seed: _got_no_further(one) for one in alone if not one.success})


def at_ticks(ticks: Mapping[int, int]) -> Trigger:
    """From the given tick of each given seed on; in other episodes never."""
    return lambda seed, tick, watch: seed in ticks and tick >= ticks[seed]


def _got_no_further(episode: Episode) -> int:
    assert episode.coverages  # the policy acted alone
    last = len(episode.coverages) - int(np.argmax(episode.coverages[::-1]))
    begin = int((episode.disturbance or {}).get("begin", 0))
    # The last decision of the episode may come before either.
    return min(max(last, begin), (episode.decisions - 1) * episode.n_action_steps)


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
    raise UserError(f"There is no trigger '{kind}'. Triggers: alarm, random, fixed, start, oracle.")


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
