"""Episodes in which a decision takes time: the chunk of the observation at tick t is there d ticks later. Simulated, so deterministic.

Legend: B running episodes, H horizon, A action dimension, d ticks of latency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.rollout import RunningEpisode, stacked
from ebt_policy.hardware.control.schedule import Schedule
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.runner import Runner
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap

ENSEMBLE_DECAY = 0.01  # ACT's (arXiv 2304.13705)


@dataclass(frozen=True)
class Handover:
    """How a new chunk takes over. waits: the arm holds while the policy thinks. blend_s: seconds of changing over. ensemble: average of
    all chunks. pull: not None: real-time chunking, with this schedule of `Overlap`.
    """

    waits: bool = False
    blend_s: float = 0.0
    ensemble: bool = False
    pull: str | None = None


@dataclass
class DelayedEpisode:
    """success; actions (ticks, A) executed; takeovers: ticks at which another chunk than before was followed for the first time."""

    seed: int
    success: bool
    actions: np.ndarray
    takeovers: list[int] = field(default_factory=list)


Hold = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def delayed_rollout(
    runner: Runner,
    env_name: str,
    seeds: Sequence[int],
    latency: int,
    handover: Handover,
    hold: Hold | None = None,
) -> list[DelayedEpisode]:
    """One episode per seed, all in one batch. latency: ticks. hold: the action of an arm that waits; None: the env's.

    A decision is asked for `n_action_steps` ticks after the last one (ensemble: as often as possible), but early enough to be
    there before that one's chunk ends. Raises UserError as `Runner.decide` does.
    """
    spec = environment(env_name)
    hold = hold or spec.hold
    running = [RunningEpisode(spec, seed, runner.n_obs_steps, False) for seed in seeds]
    arms = [_Arm(spec.fps, handover) for _ in seeds]
    noise, memory = Noise.from_seeds(seeds), PlanMemory()
    live, pending, due, tick = list(range(len(seeds))), None, 0, 0
    while live:
        if pending is None and tick >= due:
            stamp = tick + latency if handover.waits else tick
            previous = memory.at(stamp)
            overlap = None
            if handover.pull is not None and latency and previous is not None:
                overlap = Overlap.of(torch.from_numpy(previous), latency, schedule=handover.pull)
            observations = stacked([running[i] for i in live], told=bool(getattr(runner, "sentences", ())))
            decision = runner.decide(observations, noise.rows(live), previous, overlap)
            memory.store(decision.chunk, stamp)
            pending = stamp, runner.actions(torch.from_numpy(decision.chunk))
            horizon = decision.chunk.shape[1]
        if pending is not None and tick >= due + latency:
            stamp, actions = pending
            for row, i in enumerate(live):
                arms[i].take(actions[row], stamp, tick)
            steps = 1 if handover.ensemble else min(runner.n_action_steps, max(1, horizon - latency))
            pending, due = None, max(stamp + steps, tick)
        for i in live:
            arms[i].step(running[i], tick, hold, waits=handover.waits and pending is not None)
        still = [row for row, i in enumerate(live) if not running[i].done]
        memory.keep(still)
        if pending is not None:
            pending = pending[0], pending[1][still]
        live = [live[row] for row in still]
        tick += 1
    return [
        DelayedEpisode(
            seed, episode.ticks_to_success is not None, np.array(arm.executed, np.float64), arm.takeovers
        )
        for seed, episode, arm in zip(seeds, running, arms, strict=True)
    ]


class _Arm:
    """What one episode's robot follows."""

    def __init__(self, fps: float, handover: Handover) -> None:
        self._period, self._ensemble = 1 / fps, handover.ensemble
        self._schedule = Schedule(self._period, handover.blend_s)
        self._chunks: list[tuple[int, np.ndarray]] = []
        self.executed: list[np.ndarray] = []
        self.takeovers: list[int] = []
        self._holds: np.ndarray | None = None
        self._follows = False

    def take(self, actions: np.ndarray, stamp: int, tick: int) -> None:
        """actions (H, A) for ticks from `stamp` on."""
        if self._ensemble:
            self._chunks = [(at, chunk) for at, chunk in self._chunks if at + len(chunk) > tick]
            self._chunks.append((stamp, actions))
        else:
            self._schedule.merge(actions, stamp * self._period, tick * self._period)
        if self._follows:
            self.takeovers.append(tick)
        self._follows = True

    def step(self, episode: RunningEpisode, tick: int, hold: Hold, waits: bool) -> None:
        action = None if waits else self._planned(tick)
        last = self.executed[-1] if self.executed else None
        if action is not None:
            self._holds = None
        elif self._holds is None:
            self._holds = np.asarray(hold(episode.history[-1]["observation.state"], last))
        chosen = self._holds if action is None else action
        assert chosen is not None
        episode.execute(chosen[None].astype(np.float32))
        self.executed.append(chosen)

    def _planned(self, tick: int) -> np.ndarray | None:
        if not self._ensemble:
            return self._schedule.at(tick * self._period)
        due = [chunk[tick - at] for at, chunk in self._chunks if 0 <= tick - at < len(chunk)]
        if not due:
            return None
        weights = np.exp(-ENSEMBLE_DECAY * np.arange(len(due)))
        return np.average(due, axis=0, weights=weights)


def third_differences(actions: np.ndarray) -> np.ndarray:
    """Jerk (ticks - 3,) of actions (ticks, A): the norm of their third difference, in the actions' units per tick cubed."""
    return np.linalg.norm(np.diff(actions, 3, axis=0), axis=1)


def border_mask(ticks: int, takeovers: Sequence[int]) -> np.ndarray:
    """(ticks - 3,) which third differences have actions of before and after a takeover among their four."""
    mask = np.zeros(max(ticks - 3, 0), bool)
    for tick in takeovers:
        mask[max(tick - 3, 0) : tick] = True
    return mask
