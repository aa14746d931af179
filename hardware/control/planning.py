"""Planning beside the control loop: requests, answers, and the thread that runs the policy.

The loop never waits for a plan: it sends a request, follows the plan that it has, and takes the answer when it is there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

ObservationValues = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Observation:
    """One tick of the policy: observations {feature: value} without batch dimension, and when they were captured."""

    values: ObservationValues
    stamp: float


@dataclass(frozen=True)
class PlanRequest:
    """A request for a plan. frames: the observations since the last request, oldest first; the plan begins at the last one.

    deadline_s: seconds for the answer. reset: a new episode begins: forget earlier plans and observations. delay_s: expected from the
    last observation until its plan is followed; 0 where planning takes no time, or nothing is known yet.
    """

    frames: Sequence[Observation]
    deadline_s: float
    reset: bool
    delay_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """actions (n, A) in the robot's units, row 0 for the observation made at `stamp`.

    execute: ticks after which to plan again. seconds: that planning took. energy: of the last plan, see
    `Trace.old_plan_energy`. energy, score, quantile: None where the policy, its calibration or (energy) the first decision has
    none. energies: of every point evaluated. recovery: the recovery action taken, "" for none. ask: a human is needed.
    beyond: past the length that the alarms were calibrated for.
    """

    actions: np.ndarray
    stamp: float
    execute: int
    seconds: float
    evaluations: int = 1
    stop_reason: str = ""
    energy: float | None = None
    energies: tuple[float, ...] = ()
    score: float | None = None
    quantile: float | None = None
    alarm: bool = False
    recovery: str = ""
    ask: bool = False
    beyond: bool = False


@dataclass(frozen=True)
class NoPlan:
    """Why there is none. fatal: asking again is pointless without a human."""

    reason: str
    fatal: bool = False


Answer = Plan | NoPlan


class Planner(Protocol):
    """A policy, here or on a server. One thread calls it at a time; it may take long, and may raise."""

    @property
    def needs(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each feature, without batch and time."""
        ...

    @property
    def action_size(self) -> int: ...

    def plan(self, request: PlanRequest) -> Plan | NoPlan: ...

    def close(self) -> None: ...


@runtime_checkable
class Seeded(Protocol):
    """A planner whose noise begins at `seed` in every episode."""

    seed: int


class PlanService(Protocol):
    """Takes the loop's requests to a planner. At most one request is under way."""

    @property
    def busy(self) -> bool: ...

    def submit(self, request: PlanRequest) -> None:
        """Returns at once, unless the planner takes no time. Not while it is busy."""

    def poll(self) -> Answer | None:
        """The answer, once; None while there is none."""

    def close(self, timeout_s: float = 2.0) -> None: ...


class PlannerThread:
    """Asks a planner on a thread of its own. At most one request is under way."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.busy = False
        self._requests: queue.SimpleQueue[PlanRequest | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        # A daemon: a policy that never answers must not keep the process, and with it the arm, alive.
        self._worker = threading.Thread(target=self._work, name="planner", daemon=True)
        self._worker.start()

    def submit(self, request: PlanRequest) -> None:
        """Returns at once. Not while it is busy."""
        self.busy = True
        self._requests.put(request)

    def poll(self) -> Answer | None:
        """The answer, once; None while there is none."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return answer

    def close(self, timeout_s: float = 2.0) -> None:
        self._requests.put(None)
        self._worker.join(timeout_s)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            self._answers.put(answered(self.planner, request))
        self.planner.close()


class InlinePlanService:
    """The same interface without a thread: the answer is there when `ask` returns. For simulated time."""

    busy = False

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._answer: Answer | None = None

    def submit(self, request: PlanRequest) -> None:
        self._answer = answered(self.planner, request)

    def poll(self) -> Answer | None:
        answer, self._answer = self._answer, None
        return answer

    def close(self, timeout_s: float = 2.0) -> None:
        self.planner.close()


def answered(planner: Planner, request: PlanRequest) -> Answer:
    """The planner's answer. Whatever it raises becomes a reason for having no plan; the loop goes on."""
    try:
        return planner.plan(request)
    except Exception as error:  # a policy's fault must not stop the loop that holds the arm
        return NoPlan(f"{type(error).__name__}: {error}")


def finite_frames(request: PlanRequest) -> tuple[list[Observation], str]:
    """The request's observations without those that hold NaN or infinity; and why no plan can begin at the last one, or ""."""
    wrong = [_not_finite(frame) for frame in request.frames]
    frames = [frame for frame, name in zip(request.frames, wrong, strict=True) if not name]
    reason = f"the observation '{wrong[-1]}' holds NaN or infinity: look at the sensor" if wrong[-1] else ""
    return frames, reason


def _not_finite(frame: Observation) -> str:
    return next((name for name, value in frame.values.items() if not np.isfinite(value).all()), "")


def sound(answer: Answer, joints: int, period_s: float, now: float) -> Answer:
    """The answer, or NoPlan where it is a plan that cannot be followed. period_s: between its actions. now: in seconds."""
    if isinstance(answer, NoPlan):
        return answer
    try:
        actions = np.asarray(answer.actions, np.float64)
    except (TypeError, ValueError):
        return NoPlan("the plan's actions are not numbers")
    if actions.ndim != 2 or not len(actions) or actions.shape[1] != joints:
        return NoPlan(f"the plan has shape {actions.shape}; expected (ticks, {joints})")
    if not np.isfinite(actions).all():
        return NoPlan("the plan holds NaN or infinity")
    if not np.isfinite(answer.stamp):
        return NoPlan(f"the plan's time is {answer.stamp}")
    if answer.stamp > now + period_s:
        return NoPlan(f"the plan begins {answer.stamp - now:.2f} s in the future")
    if now >= answer.stamp + len(actions) * period_s:
        return NoPlan(f"the plan came {now - answer.stamp:.2f} s after what it was made from, past its end")
    return answer
