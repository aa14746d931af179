"""A policy on this computer as a planner: a WatchedRunner for one arm, its plan memory and its alarms."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import torch

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.hardware.control.planning import (
    NoPlan,
    Observation,
    ObservationValues,
    Plan,
    PlanRequest,
    finite_frames,
)
from ebt_policy.hardware.planners.policy_features import policy_features
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import StopReason
from ebt_policy.monitoring.watched import WatchedRunner


class LocalPlanner:
    """Legend: T observation steps, H horizon, n ticks executed, A action dimension."""

    def __init__(self, watched: WatchedRunner, fps: float, seed: int = 0, pull: str | None = None) -> None:
        """fps: ticks a second that its plans are played at. seed: of its noise, from each episode's start on.

        pull: real-time chunking: what will be executed before the plan is there is fixed, and what follows is pulled to the last plan
        by this schedule of `Overlap`. None: plans know nothing of each other; the schedule blends them.
        """
        self._pull = pull
        self.watched, self.n_action_steps = watched, watched.n_action_steps
        inputs, action = policy_features(watched.runner)
        self.needs = {name: tuple(feature.shape) for name, feature in inputs.items()}
        self.action_size = action.shape[0]
        self._fps, self.seed = fps, seed
        self._history: deque[ObservationValues] = deque(maxlen=watched.n_obs_steps)
        self._noise, self._watch = Noise.from_seeds([seed]), watched.watch()
        self._memory = PlanMemory()
        # Of every decision, as the checkpoint or the user sets it.
        own = watched.config.deadline_s if isinstance(watched.config, EBTConfig) else None
        self._deadline_s = np.inf if own is None else own

    def plan(self, request: PlanRequest) -> Plan | NoPlan:
        """NoPlan where the newest observation or the actions are not finite. Raises UserError as `Runner.decide` does."""
        begin = time.perf_counter()
        if request.reset:
            self._begin_episode()
        frames, reason = finite_frames(request)
        for observation in frames:
            # A new episode's past is its first tick, as in training.
            for _ in range(1 if self._history else self.watched.n_obs_steps):
                self._history.append(observation.values)
        if reason:
            return NoPlan(reason)
        stamp = request.frames[-1].stamp
        config = self.watched.config
        if isinstance(config, EBTConfig):
            shortest = min(request.deadline_s, self._deadline_s)
            config.deadline_s = None if np.isinf(shortest) else shortest
        batch = {name: _batch([frame[name] for frame in self._history]) for name in self._history[-1]}
        previous = self._memory.at(stamp * self._fps)
        overlap = self._overlap(previous, request.delay_s)
        decision = self.watched.decide(batch, self._noise, previous, [self._watch], overlap)
        chunk, trace = decision.chunk, decision.trace
        self._memory.store(chunk, stamp * self._fps)
        if np.isfinite(chunk).all():
            # All that was planned, not only what is to be executed: it bridges the time until the next plan.
            actions = self.watched.runner.actions(torch.from_numpy(chunk))[0]
        else:  # the plan was dropped, and the arm is told to stay
            actions = decision.actions[0]
        if not np.isfinite(actions).all():
            self._memory.forget()
            recovery = self._watch.recovery[-1] if self._watch.recovery else ""
            if recovery:  # as long as there is no plan, the arm holds
                return NoPlan(f"an alarm ({recovery}), and no action is known that holds", recovery == "ask")
            return NoPlan("the policy's actions hold NaN or infinity")
        reading = self._watch.readings[-1] if self._watch.readings else None
        return Plan(
            actions=actions,
            stamp=stamp,
            execute=self.n_action_steps,
            seconds=time.perf_counter() - begin,
            evaluations=int(trace.evaluations[0]),
            stop_reason=StopReason(int(trace.stop_reason[0])).name.lower(),
            energy=trace.old_plan(0),
            energies=tuple(float(e) for e in trace.row(0).energy[0]),
            score=None if reading is None else reading.score,
            quantile=None if reading is None else reading.quantile,
            alarm=reading is not None and reading.alarm,
            recovery=self._watch.recovery[-1] if self._watch.recovery else "",
            ask=decision.ended is not None and bool(decision.ended[0]),
            beyond=reading is not None and reading.beyond,
        )

    def _overlap(self, previous: np.ndarray | None, delay_s: float) -> Overlap | None:
        """With the last plan (1, H, A) as seen now; None where planning takes no time, so that it decides as in simulation."""
        ticks = int(np.ceil(delay_s * self._fps - 1e-6))
        if self._pull is None or previous is None or ticks < 1:
            return None
        return Overlap.of(torch.from_numpy(previous), ticks, schedule=self._pull)

    def warm_up(self) -> None:
        """Plans a few times without an arm: the first plans of a process are slow."""
        nothing = {name: np.zeros(shape, np.float32) for name, shape in self.needs.items()}
        for _ in range(3):
            self.plan(PlanRequest((Observation(nothing, 0.0),), np.inf, reset=True))
        self._begin_episode()

    def close(self) -> None:
        """Nothing to give back."""

    def _begin_episode(self) -> None:
        self._history.clear()
        self._noise, self._watch = Noise.from_seeds([self.seed]), self.watched.watch()
        self._memory.forget()


def _batch(values: list[np.ndarray]) -> np.ndarray:
    """T values -> (1, T, ...) float32; pictures, which are bytes, in 0..1."""
    stacked = np.stack(values)[None]
    return stacked.astype(np.float32) / (255 if stacked.dtype == np.uint8 else 1)
