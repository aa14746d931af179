"""What the control loop is told and what it tells: its rates, how an episode went, each tick for recording, and who may take over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from ebt_policy.hardware.control.planning import Observation
from ebt_policy.hardware.control.timing import Punctuality


@dataclass(frozen=True)
class LoopConfig:
    """fps: ticks a second of the policy, as in its training data; a lower rate plays its plans in slow motion. control_hz: of
    the loop. Times in seconds: actuation_s: commands are sent this much early, because the arm needs it to move. blend_s: longest
    transition from one plan to the next. smooth_s: commands are means of the actions due so long before and after; 0: off.
    deadline_s: for one plan. patience_s: without a plan, or without the joints, for this long, stop. ask_timeout_s: the episode
    ends when nobody answers for this long. settle_s: before the arm is taken over where it stands, its commands have stood still
    for so long: it follows them late.
    """

    fps: float = 30.0
    control_hz: float = 50.0
    actuation_s: float = 0.0
    blend_s: float = 0.1
    smooth_s: float = 0.0
    deadline_s: float = 0.5
    patience_s: float = 3.0
    ask_timeout_s: float = np.inf
    settle_s: float = 0.25


class ObservationSource(Protocol):
    """Where the loop gets the observations of a policy; see `RobotObservationSource`."""

    def __call__(self, floats: Mapping[str, Any], stamp: float) -> Observation | str:
        """The policy's observation at `stamp`, or the reason why there is none, such as a stale camera. floats: the robot's."""
        ...


@dataclass
class Outcome:
    """How an episode went. end: finished, time, success, failure, quit, unanswered, or error. reason: for the last five.
    seconds: all of it; asked, takeovers: how often. beyond: plans past the length that the alarms were
    calibrated for. success: None where nobody judged it.
    """

    end: str
    reason: str
    seconds: float
    punctuality: Punctuality
    plans: int = 0
    no_plans: int = 0
    evaluations: float = float("nan")  # per plan
    thinking: list[float] = field(default_factory=list)  # seconds that each plan took
    alarms: int = 0
    beyond: int = 0
    late_actions: int = 0
    asked: int = 0
    takeovers: int = 0
    success: bool | None = None


@dataclass(frozen=True)
class Sent:
    """One tick, for recording: the observation, and the command {NAME.pos: position} that followed it, after the safety filter.

    intervention: it was the operator's command.
    """

    observation: Observation
    action: Mapping[str, float]
    intervention: bool = False


class Phase(StrEnum):
    """Who drives."""

    POLICY = "policy"
    ASKING = "asking"
    CORRECTING = "correcting"


@dataclass(frozen=True)
class Drive:
    """The operator's command: target (J,), decided on at `stamp` seconds."""

    target: np.ndarray
    stamp: float


class Takeover(Protocol):
    """Who drives, tick by tick; see `LeaderTakeover`. None of its calls wait.

    phase: who drives now. asked_at: since when nobody has answered, seconds; infinite while nobody is asked.
    """

    phase: Phase
    asked_at: float

    @property
    def active(self) -> bool:
        """The policy does not drive."""
        ...

    def begin(self) -> None:
        """A new episode begins with the policy."""

    def ask(self, reason: str, now: float) -> None:
        """The arm is to hold until somebody takes over or lets the policy go on."""

    def press(self, now: float) -> None:
        """The operator's key: asks, takes over, or hands back."""

    def go_on(self, now: float) -> None:
        """The policy goes on without a correction."""

    def tick(self, now: float, commanded: np.ndarray | None, at_rest: bool, hindrance: str) -> Drive | None:
        """The operator's command, if there is a new one.

        commanded (J,): last sent to the arm; None while unknown. at_rest: the arm has come to rest. hindrance: why it must not
        move now, "" if it may.
        """
        ...
