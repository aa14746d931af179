"""The control loop: at every tick it reads the joints, follows the schedule through the safety filter, and sends.

It waits for nothing but its clock. Planning, cameras, recording and viewing run in threads of their own; whatever fails there
leaves the loop without new plans, and without new plans the arm holds. Legend: J joints, A action dimension (A = J).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.hardware.control import episode
from ebt_policy.hardware.control.bus_faults import READ, SEND, BusFaults
from ebt_policy.hardware.control.clock import Clock
from ebt_policy.hardware.control.commands import Command, Commands
from ebt_policy.hardware.control.episode import LoopConfig, ObservationSource, Outcome, Phase, Sent
from ebt_policy.hardware.control.planning import NoPlan, Observation, Plan, PlanRequest, PlanService, sound
from ebt_policy.hardware.control.schedule import Schedule
from ebt_policy.hardware.control.timing import PlanningDelay, Stopwatch
from ebt_policy.hardware.safety.filter import SafetyEvent
from ebt_policy.hardware.safety.safe_robot import HEALTH_S, SafeRobot

_FRAMES = 64  # kept for a policy that does not answer


class ControlLoop:
    """Runs episodes, one after the other, on a connected arm. Commands are sent during `run` only."""

    def __init__(
        self,
        arm: SafeRobot,
        plan_service: PlanService,
        observe: ObservationSource,
        config: LoopConfig,
        clock: Clock,
        commands: Commands | None = None,
        on_event: Callable[[Any], None] | None = None,
        on_sent: Callable[[Sent], None] | None = None,
        finished: Callable[[], bool] = lambda: False,
        takeover: episode.Takeover | None = None,
    ) -> None:
        """on_event, on_sent: must not block. finished: ends the episode, for a world that knows when it is solved. takeover: of a
        human, whom the arm asks for help.
        """
        self.arm, self.plan_service, self.observe = arm, plan_service, observe
        self.config, self.clock = config, clock
        self.commands = Commands() if commands is None else commands
        self._on_event, self._on_sent, self._finished = on_event, on_sent, finished
        self.takeover = takeover
        self._period = 1 / config.control_hz
        self._tick_s = 1 / config.fps
        # Of the present episode; `_begin` sets them.
        self.schedule = Schedule(self._tick_s, config.blend_s, config.smooth_s)
        self._outcome = Outcome("", "", 0.0, Stopwatch().punctuality(), evaluations=0.0)
        self._ended = ("", "")
        self._plan: Plan | None = None  # the last one taken
        self._delay = PlanningDelay()
        self._frames: deque[Observation] = deque(maxlen=_FRAMES)  # observations since the last request
        self._next_sample = self._next_request = self._alive = 0.0
        self._reset = True
        self._waiting = False  # for an answer to a request of before a stop
        self._sent: Mapping[str, float] = {}
        self._bus = BusFaults()
        self._retake = False  # somebody may have moved the arm: take it over where it stands, then send
        self._blind = ""  # why there is no observation
        self._next_health = 0.0
        self._asked_at = np.inf  # since when a stop waits for a human

    def run(self, seconds: float) -> Outcome:
        """One episode of at most `seconds`, in which the time of asking and correcting does not count.

        However it ends, the arm is left braking or at rest.
        """
        self._begin()
        begin, stopwatch = self.clock.now(), Stopwatch()
        try:
            end, reason = self._ticks(begin, seconds, stopwatch)
        except BaseException:
            self._brake()
            raise
        self._outcome.end, self._outcome.reason = end, reason
        self._outcome.seconds = self.clock.now() - begin
        self._outcome.punctuality = stopwatch.punctuality()
        self._brake()
        return self._outcome

    # -- one tick --------------------------------------------------------------------------------------------------
    def _ticks(self, begin: float, seconds: float, stopwatch: Stopwatch) -> tuple[str, str]:
        """Runs all ticks; returns how the episode ended, and why."""
        due, end, reason = begin, "time", ""
        while not end or (end == "time" and due - begin < seconds - 1e-9):
            now = self.clock.now()
            self._obey(now)
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
            before = due
            due += self._period
            behind = int(np.floor((self.clock.now() - due) / self._period + 1e-6)) + 1
            if behind > 0:  # missed ticks are left out, not caught up with: the schedule goes by time
                stopwatch.missed += behind
                due += behind * self._period
            if self._helped:
                begin += due - before
            self.clock.sleep_until(due)
        return end, reason

    def _tick(self, now: float) -> np.ndarray | None:
        floats = self._read(now)
        observation = None
        if floats is not None and now >= self._next_sample - 1e-6:
            observation = self._sample(floats, now)
        target, stamp = self._operator(now)
        self._plan_next(now)
        if self._retake:
            target = None
        elif not (self._helped or self._hindrance):
            target = self.schedule.smoothed(now + self.config.actuation_s)
        measured = None if floats is None else [floats[f"{name}.pos"] for name in self.arm.joints]
        # While the arm is to be taken over, or neither reads nor sends work, nobody knows from where it would move: it only brakes.
        if not (self._retake and self.arm.at_rest) and (floats is not None or not self._bus.failing(SEND)):
            self._send(target, measured, stamp)
        if now >= self._next_health:
            self._next_health = now + HEALTH_S
            hot = self.arm.too_hot()
            if hot and not self.arm.stopped:
                self.arm.stop(hot)
        phase = Phase.POLICY if self.takeover is None else self.takeover.phase
        # As in LeRobot's recordings, the time in which the arm waits for a human is left out.
        if observation is not None and self._sent and self._on_sent is not None and phase is not Phase.ASKING:
            self._on_sent(Sent(observation, self._sent, phase is Phase.CORRECTING))
        return target

    @property
    def _helped(self) -> bool:
        """The policy does not drive."""
        return self.takeover is not None and self.takeover.active

    @property
    def _settled(self) -> bool:
        """The arm stands still: taken over in motion, its command would jump back to where the arm lags behind."""
        return self.arm.rests(self.config.settle_s)

    @property
    def _hindrance(self) -> str:
        """Why the arm must not move now."""
        stopped = "the arm is stopped" if self.arm.stopped else ""
        return stopped or self._blind or ("the arm's bus fails" if self._bus.held else "")

    def _operator(self, now: float) -> tuple[np.ndarray | None, float]:
        """The operator's target and its time, if there is a new one; else the present time."""
        asked_at = self._asked_at if self.takeover is None else self.takeover.asked_at
        if now - asked_at > self.config.ask_timeout_s:
            self._ended = ("unanswered", f"nobody answered for {now - asked_at:.0f} s")
            self._tell(now, "unanswered", self._ended[1])
        if self.takeover is None:
            return None, now
        before, commanded = self.takeover.phase, None
        if self._sent and not self._retake:
            commanded = np.array([self._sent[f"{name}.pos"] for name in self.arm.joints])
        drive = self.takeover.tick(now, commanded, self.arm.at_rest, self._hindrance)
        self._changed(before)
        return (None, now) if drive is None else (drive.target, drive.stamp)

    def _changed(self, before: Phase) -> None:
        """Between two drivers the arm holds, and the policy plans anew, from noise."""
        assert self.takeover is not None  # the caller has looked
        phase = self.takeover.phase
        if phase is before:
            return
        if phase is Phase.CORRECTING:
            self._outcome.takeovers += 1
            return
        self._outcome.asked += phase is Phase.ASKING
        self.arm.hold("the arm asks for a human" if phase is Phase.ASKING else "the policy plans anew")
        self._restart()

    def _read(self, now: float) -> Mapping[str, Any] | None:
        """The robot's numbers; None where the bus failed or a joint's position is not finite."""
        try:
            floats = self.arm.get_observation()
            wrong = [name for name in self.arm.joints if not np.isfinite(floats[f"{name}.pos"])]
            if wrong:
                raise ValueError(f"joint '{wrong[0]}' shows {floats[f'{wrong[0]}.pos']}")
            if (self._bus.held or self._retake) and self._settled:
                self.arm.begin(floats)  # the next command starts from where the arm is now
                self._retake = False
                self._restart()
        except UserError as error:
            self._bus_failed(READ, str(error))
            return None
        except Exception as error:  # each robot raises its own
            self._bus_failed(READ, f"the joints cannot be read: {error}")
            return None
        self._bus_works(READ, now)
        return floats

    def _send(self, target: np.ndarray | None, measured: list[float] | None, stamp: float) -> None:
        try:
            # The tick's time: a command that waited long for the joints to be read is refused as stale.
            self._sent = self.arm.drive(target, measured, stamp)
        except Exception as error:
            self._bus_failed(SEND, f"the command cannot be sent: {error}")
        else:
            self._bus_works(SEND, stamp)

    def _sample(self, floats: Mapping[str, Any], now: float) -> Observation | None:
        """The observation of one tick of the policy, kept for the next request. None where there is none."""
        self._next_sample += self._tick_s
        if self._next_sample <= now:  # late by a whole tick and more
            self._next_sample = now + self._tick_s
        try:
            observation: Observation | str = self.observe(floats, now)
        except Exception as error:  # a camera's fault must not stop the loop that holds the arm
            observation = f"{type(error).__name__}: {error}"
        if isinstance(observation, str):
            if not self._blind:
                self._tell(now, "blind", observation)
                self.arm.hold(observation)
            self._blind = observation
            return None
        if self._blind:
            self._tell(now, "sees_again", self._blind)
            self._blind = ""
            self._restart()
        self._frames.append(observation)
        return observation

    def _plan_next(self, now: float) -> None:
        answer = self.plan_service.poll()
        if answer is not None:
            self._take(answer, now)
        if self._helped or self._hindrance or self._retake:
            return
        idle = now - max(self._alive, self.schedule.end - self.config.actuation_s)
        if idle > self.config.patience_s:
            self._ask_for_help(f"no plan for {idle:.1f} s", now)
            return
        if self.plan_service.busy or not self._frames or now < self._next_request - 1e-6:
            return
        request = PlanRequest(tuple(self._frames), self.config.deadline_s, self._reset, self._delay.usual_s)
        self.plan_service.submit(request)
        self._frames.clear()
        self._reset = False
        answer = self.plan_service.poll()  # a planner that takes no time has answered already
        if answer is not None:
            self._take(answer, now)

    def _take(self, answer: Plan | NoPlan, now: float) -> None:
        if self._waiting:  # asked before a stop
            self._waiting = False
            return
        answer = sound(answer, len(self.arm.joints), self._tick_s, now)
        if isinstance(answer, NoPlan):
            self._outcome.no_plans += 1
            self._tell(now, "no_plan", answer.reason)
            if answer.fatal:
                self._ask_for_help(answer.reason, now)
            return
        followed = now + self.config.actuation_s
        late = self.schedule.merge(answer.actions, answer.stamp, followed)
        self._plan, self._alive = answer, now
        self._delay.add(followed - answer.stamp)
        # Plan again after `execute` ticks, but early enough for the next plan to come before this one ends.
        reserve = self._delay.usual_s
        if reserve > 0:
            reserve += self._period  # requests are sent at ticks
        early = int(np.ceil(reserve * self.config.fps - 1e-6))
        ticks = max(1, min(answer.execute, len(answer.actions) - early))
        self._next_request = answer.stamp + ticks * self._tick_s
        outcome = self._outcome
        outcome.plans += 1
        outcome.thinking.append(answer.seconds)
        outcome.late_actions += late
        outcome.alarms += answer.alarm
        outcome.beyond += answer.beyond
        if answer.beyond and outcome.beyond == 1:
            self._tell(now, "beyond_calibration", f"plan {outcome.plans} is past the calibrated length")
        outcome.evaluations += (answer.evaluations - outcome.evaluations) / outcome.plans
        facts = {name: value for name, value in vars(answer).items() if name != "actions"}
        self._log({"time": now, "kind": "plan", "late": late, **facts})
        if answer.ask:
            self._ask_for_help("the policy is not sure enough to go on", now)

    # -- faults and humans ------------------------------------------------------------------------------------------
    def _bus_failed(self, way: str, reason: str) -> None:
        """Without the bus for the watchdog's time the arm holds; after patience_s the episode ends. One lost packet does not count."""
        now = self.clock.now()  # a driver may try for long before it fails
        first, seconds = self._bus.failed(way, now)
        if first:
            self._tell(now, "bus", reason)
        if seconds > self.arm.config.watchdog_s and not self._bus.held:
            self._bus.held = True
            self.arm.hold(reason)
        if seconds > self.config.patience_s:
            self._ended = ("error", f"{reason}, for {seconds:.1f} s")

    def _bus_works(self, way: str, now: float) -> None:
        seconds = self._bus.works(way, now)
        if seconds is not None:
            self._tell(now, "bus_works", f"{way} again after {seconds:.2f} s")
        if self._bus.over():
            self._retake |= not self._settled  # otherwise it was taken over in this tick
            self._restart()

    def _ask_for_help(self, reason: str, now: float) -> None:
        if self.takeover is not None:
            before = self.takeover.phase
            self.takeover.ask(reason, now)
            self._changed(before)
            return
        self.arm.stop(f"{reason}: needs a human")
        self._asked_at = min(self._asked_at, now)
        self._outcome.asked += 1
        self._tell(now, "asks", reason)

    def _obey(self, now: float) -> None:
        while (command := self.commands.poll()) is not None:
            if command is Command.STOP:
                self.arm.stop("asked to")
            elif command is Command.TAKE_OVER:
                self._take_over(now)
            elif command is Command.RESET:
                self._lift(now)
            else:
                self._ended = (str(command), "asked to")

    def _lift(self, now: float) -> None:
        """Lifts a stop; or lets the policy go on where the arm only asks."""
        self._asked_at = np.inf
        if self.arm.stopped:
            self._retake = True  # a human may have moved it meanwhile
        elif self.takeover is not None:
            self.takeover.go_on(now)
        self.arm.reset()
        self._restart()

    def _take_over(self, now: float) -> None:
        if self.takeover is None:
            self._tell(now, "no_leader", "give --teleop.type: a leader, a gamepad or a keyboard")
            return
        before = self.takeover.phase
        self.takeover.press(now)
        self._changed(before)

    # -- state -----------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        self._outcome = Outcome("", "", 0.0, Stopwatch().punctuality(), evaluations=0.0)
        self._ended, self._blind = ("", ""), ""
        self._bus = BusFaults()
        self._retake = True  # a failed read is waited out as in the middle of an episode
        self._delay = PlanningDelay()
        self._next_sample = self.clock.now()
        self._next_health = self._next_sample + HEALTH_S
        self._sent, self._asked_at = {}, np.inf
        if self.takeover is not None:
            self.takeover.begin()
        self._restart()
        if self.arm.stopped:
            reason = "the episode begins with a stop in force: r (reset) lifts it"
            self._tell(self.clock.now(), "stopped", reason)

    def _restart(self) -> None:
        """Drops all plans and observations, as at the start of an episode: they belong to another moment."""
        self.schedule.clear()
        self._frames.clear()
        self._plan = None
        self._reset, self._next_request = True, -np.inf
        self._alive = self.clock.now()
        self._waiting = self.plan_service.busy

    def _brake(self) -> None:
        """Brings the arm to rest, as long as it can be commanded."""
        self.arm.hold("the episode is over")
        for _ in range(int(5.0 / self._period)):
            if self.arm.at_rest or self._bus.failing(SEND):
                return
            self._send(None, None, self.clock.now())
            self.clock.sleep_until(self.clock.now() + self._period)

    def _tell(self, now: float, kind: str, detail: str) -> None:
        self._log(SafetyEvent(now, kind, detail))

    def _log(self, event: Any) -> None:
        if self._on_event is not None:
            self._on_event(event)
