"""The control loop: at every tick it reads the joints, follows the schedule through the safety filter, and sends.

It waits for nothing but its clock. Thinking, cameras, recording and viewing go on in threads of their own, and whatever
fails there ends in fewer plans, and fewer plans end in a held arm. Legend: J joints, A action dimension (A = J).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ebt_policy.hardware.clock import Clock
from ebt_policy.hardware.commands import Command, Commands
from ebt_policy.hardware.planning import InlineThinker, NoPlan, Plan, Question, Seen, Thinker
from ebt_policy.hardware.safe_robot import SafeRobot
from ebt_policy.hardware.safety import SafetyEvent
from ebt_policy.hardware.schedule import Schedule
from ebt_policy.hardware.timing import Punctuality, Stopwatch

_FRAMES = 64  # kept for a policy that does not answer
_LATENCIES = 50


@dataclass(frozen=True)
class LoopConfig:
    """fps: ticks a second of the policy, as in its training data; slower plays its plans in slow motion. control_hz: of the
    loop. actuation_s: commands are sent this much early, because the arm takes so long. blend_s: longest change-over from
    one plan to the next. deadline_s: longest thought. patience_s: without a plan, or without the joints, for so long, stop.
    """

    fps: float = 30.0
    control_hz: float = 50.0
    actuation_s: float = 0.0
    blend_s: float = 0.1
    deadline_s: float = 0.5
    patience_s: float = 3.0


class Watch(Protocol):
    """What the eyes of the loop give: see `hardware.deploy`."""

    def __call__(self, floats: Mapping[str, Any], stamp: float) -> Seen | str:
        """What the policy should see now, or why it cannot: a camera that is stale, say."""


@dataclass
class Outcome:
    """How an episode went. end: finished, time, success, failure, quit, or error. reason: of the last of these."""

    end: str
    reason: str
    seconds: float
    punctuality: Punctuality
    plans: int = 0
    no_plans: int = 0
    evaluations: float = float("nan")  # per plan
    thinking: list[float] = field(default_factory=list)  # seconds of each plan
    alarms: int = 0
    late_actions: int = 0


@dataclass(frozen=True)
class Sent:
    """One tick of the policy's rate, for whoever records: what was seen, and what was sent to the arm meanwhile."""

    seen: Seen
    action: Mapping[str, float]
    energy: float | None


class ControlLoop:
    """Runs one episode at a time on an arm that is connected. Nothing is sent outside `run`."""

    def __init__(
        self,
        arm: SafeRobot,
        thinker: Thinker | InlineThinker,
        watch: Watch,
        config: LoopConfig,
        clock: Clock,
        commands: Commands | None = None,
        on_event: Callable[[Any], None] | None = None,
        on_sent: Callable[[Sent], None] | None = None,
        finished: Callable[[], bool] = lambda: False,
    ) -> None:
        """on_event, on_sent: must not block. finished: ends the episode, for a world that knows when it is solved."""
        self.arm, self.thinker, self.watch, self.config, self.clock = arm, thinker, watch, config, clock
        self.commands = Commands() if commands is None else commands
        self._on_event, self._on_sent, self._finished = on_event, on_sent, finished
        self._period = 1 / config.control_hz
        self._tick_s = 1 / config.fps
        # Of the present episode; `_begin` sets them.
        self.schedule = Schedule(self._tick_s, config.blend_s)
        self._outcome = Outcome("", "", 0.0, Stopwatch().punctuality(), evaluations=0.0)
        self._ended = ("", "")
        self._plan: Plan | None = None  # the last one taken
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._frames: deque[Seen] = deque(maxlen=_FRAMES)  # seen since the last question
        self._next_sample = self._next_question = self._alive = 0.0
        self._reset = True
        self._waiting = False  # for an answer to a question of before a stop
        self._sent: Mapping[str, float] = {}
        self._failing_since: float | None = None  # the bus
        self._blind = ""  # why nothing can be seen

    def run(self, seconds: float) -> Outcome:
        """One episode of at most `seconds`. Whatever ends it, the arm is left braking or at rest."""
        self._begin()
        begin = due = self.clock.now()
        stopwatch, end, reason = Stopwatch(), "time", ""
        while not end or (end == "time" and due - begin < seconds - 1e-9):
            now = self.clock.now()
            self._obey()
            end, reason = self._ended
            if end:
                break
            end = "time"
            target = self._tick(now)
            age = None if target is None or self._plan is None else now - self._plan.stamp
            stopwatch.tick(now - due, self.clock.now() - now, age)
            if self._finished():
                end = "finished"
                break
            due += self._period
            behind = int((self.clock.now() - due) / self._period)
            if behind > 0:  # no burst of ticks to catch up with: the schedule goes by time
                stopwatch.missed += behind
                due += behind * self._period
            self.clock.sleep_until(due)
        self._outcome.end, self._outcome.reason = end, reason
        self._outcome.seconds = self.clock.now() - begin
        self._outcome.punctuality = stopwatch.punctuality()
        self._brake()
        return self._outcome

    # -- one tick --------------------------------------------------------------------------------------------------
    def _tick(self, now: float) -> np.ndarray | None:
        floats = self._read(now)
        if floats is not None and now >= self._next_sample - 1e-6:
            self._sample(floats, now)
        self._think(now)
        target = None
        if not self.arm.stopped and not self._blind:
            target = self.schedule.at(now + self.config.actuation_s)
        measured = None if floats is None else [floats[f"{name}.pos"] for name in self.arm.joints]
        self._send(target, measured, now)
        return target

    def _read(self, now: float) -> Mapping[str, Any] | None:
        """What the robot feels; None where the bus failed, which is told once and lasts no longer than patience_s."""
        try:
            floats = self.arm.get_observation()
        except Exception as error:  # each robot raises its own
            self._bus_failed(f"the joints cannot be read: {error}", now)
            return None
        self._bus_works(now)
        return floats

    def _send(self, target: np.ndarray | None, measured: list[float] | None, now: float) -> None:
        try:
            self._sent = self.arm.drive(target, measured)
        except Exception as error:
            self._bus_failed(f"the command cannot be sent: {error}", now)

    def _sample(self, floats: Mapping[str, Any], now: float) -> None:
        """One tick of the policy: what it sees is kept until it is asked."""
        self._next_sample += self._tick_s
        if self._next_sample <= now:  # late by a whole tick and more
            self._next_sample = now + self._tick_s
        seen = self.watch(floats, now)
        if isinstance(seen, str):
            if not self._blind:
                self._tell(now, "blind", seen)
                self.arm.hold(seen)
            self._blind = seen
            return
        if self._blind:
            self._tell(now, "sees_again", self._blind)
            self._blind = ""
            self._restart()
        self._frames.append(seen)
        if self._on_sent is not None:
            energy = None if self._plan is None else self._plan.energy
            self._on_sent(Sent(seen, self._sent, energy))

    def _think(self, now: float) -> None:
        answer = self.thinker.take()
        if answer is not None:
            self._take(answer, now)
        if self.thinker.busy or self.arm.stopped or self._blind or now < self._next_question - 1e-6:
            if now - self._alive > self.config.patience_s and not self.arm.stopped and not self._blind:
                self._ask_for_help(f"no plan for {now - self._alive:.1f} s", now)
            return
        if not self._frames:
            return
        self.thinker.ask(Question(tuple(self._frames), self.config.deadline_s, self._reset))
        self._frames.clear()
        self._reset = False
        answer = self.thinker.take()  # where thinking takes no time, it is there already
        if answer is not None:
            self._take(answer, now)

    def _take(self, answer: Plan | NoPlan, now: float) -> None:
        if self._waiting:  # asked before a stop
            self._waiting = False
            return
        if isinstance(answer, NoPlan):
            self._outcome.no_plans += 1
            self._tell(now, "no_plan", answer.reason)
            if answer.fatal:
                self._ask_for_help(answer.reason, now)
            return
        late = self.schedule.merge(answer.actions, answer.stamp, now)
        self._plan, self._alive = answer, now
        self._latencies.append(now - answer.stamp)
        # Look again after `execute` ticks, but early enough for the next plan to come before this one ends.
        reserve = float(np.quantile(self._latencies, 0.9)) * self.config.fps
        ticks = max(1, min(answer.execute, len(answer.actions) - int(np.ceil(reserve))))
        self._next_question = answer.stamp + ticks * self._tick_s
        outcome = self._outcome
        outcome.plans += 1
        outcome.thinking.append(answer.seconds)
        outcome.late_actions += late
        outcome.alarms += answer.alarm
        outcome.evaluations += (answer.evaluations - outcome.evaluations) / outcome.plans
        facts = {name: value for name, value in vars(answer).items() if name != "actions"}
        self._log({"time": now, "kind": "plan", "late": late, **facts})
        if answer.ask:
            self._ask_for_help("the policy is not sure enough to go on", now)

    # -- faults and humans ------------------------------------------------------------------------------------------
    def _bus_failed(self, reason: str, now: float) -> None:
        if self._failing_since is None:
            self._failing_since = now
            self._tell(now, "bus", reason)
            self.arm.hold(reason)
        elif now - self._failing_since > self.config.patience_s:
            self._ended = ("error", f"{reason}, for {now - self._failing_since:.1f} s")

    def _bus_works(self, now: float) -> None:
        if self._failing_since is not None:
            self._tell(now, "bus_works", f"after {now - self._failing_since:.2f} s")
            self._failing_since = None
            self._restart()

    def _ask_for_help(self, reason: str, now: float) -> None:
        self.arm.stop(f"{reason}: needs a human")
        self._tell(now, "asks", reason)

    def _obey(self) -> None:
        while (command := self.commands.poll()) is not None:
            if command is Command.STOP:
                self.arm.stop("asked to")
            elif command is Command.RESET:
                self.arm.reset()
                self._restart()
            else:
                self._ended = (str(command), "asked to")

    # -- state -----------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        self._outcome = Outcome("", "", 0.0, Stopwatch().punctuality(), evaluations=0.0)
        self._ended, self._blind, self._failing_since = ("", ""), "", None
        self._latencies.clear()
        self._next_sample = self.clock.now()
        self._sent = {}
        self._restart()

    def _restart(self) -> None:
        """What was planned belongs to another moment: begin as at the start of an episode."""
        self.schedule.clear()
        self._frames.clear()
        self._plan = None
        self._reset, self._next_question = True, -np.inf
        self._alive = self.clock.now()
        self._waiting = self.thinker.busy

    def _brake(self) -> None:
        """Leaves the arm at rest, as far as it can be commanded at all."""
        self.arm.hold("the episode is over")
        for _ in range(int(5.0 / self._period)):
            if self.arm.at_rest or self._failing_since is not None:
                return
            self._send(None, None, self.clock.now())
            self.clock.sleep_until(self.clock.now() + self._period)

    def _tell(self, now: float, kind: str, detail: str) -> None:
        self._log(SafetyEvent(now, kind, detail))

    def _log(self, event: Any) -> None:
        if self._on_event is not None:
            self._on_event(event)
