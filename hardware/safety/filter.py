"""The safety filter between a policy and an arm. It runs on the robot's side, after every network hop.

It does not replace a switch that cuts the power: it cannot stop an arm whose servos, bus or computer fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.limits import Array, JointLimits, Positions, braking_step, limited_step


class State(StrEnum):
    """What the filter is doing."""

    WAITING = "waiting"  # at rest, no command yet
    MOVING = "moving"
    HOLDING = "holding"  # braking or at rest until fresh commands come
    STOPPED = "stopped"  # latched: only `reset` leads out


@dataclass(frozen=True)
class SafetyConfig:
    """Times in seconds. watchdog_s: hold when no command was accepted for this long. stale_s: refuse older commands.
    ramp_s: after a start or a stop, the speed limit rises from zero to full over this time. speed_scale: share of the velocity
    limits. start_gate: refuse to start towards a target farther than this from the arm, in the joints' units; None: never refuse.
    following_error: stop when a joint is measured farther than this from its command, because something blocks it, one number or
    (J,); None: off.
    """

    watchdog_s: float = 0.2
    stale_s: float = 0.5
    ramp_s: float = 1.0
    speed_scale: float = 0.25
    start_gate: float | None = 30.0
    following_error: float | Array | None = None

    def __post_init__(self) -> None:
        if not (self.watchdog_s > 0 and self.stale_s > 0 and self.ramp_s >= 0 and 0 < self.speed_scale <= 1):
            raise UserError(
                "Safety needs watchdog_s and stale_s above 0, ramp_s of at least 0 and a speed_scale in (0, 1]; found "
                f"{self.watchdog_s}, {self.stale_s}, {self.ramp_s}, {self.speed_scale}."
            )


@dataclass(frozen=True)
class SafetyEvent:
    """An event of the filter. time: seconds of its clock."""

    time: float
    kind: str
    detail: str


class StopLatch:
    """Set by any thread, at any moment; lifted only by `lift`, with the token of the stop that is to end.

    Each stop makes a token of its own and writes one reference, so no stop is lost between a check and a write elsewhere.
    """

    def __init__(self) -> None:
        self._token: object | None = None
        self._lifted: object | None = None

    @property
    def token(self) -> object | None:
        """The latest stop's token; None where none is in force."""
        token = self._token
        return None if token is self._lifted else token

    @property
    def is_set(self) -> bool:
        return self.token is not None

    def set(self) -> bool:
        """Sets it; returns whether it was not set before."""
        fresh = not self.is_set
        self._token = object()
        return fresh

    def lift(self, token: object) -> None:
        """Ends the stop of this token; a later one stays in force."""
        self._lifted = token


class SafetyFilter:
    """`submit` takes a policy's targets as they come; `tick` returns the positions to send, once every period."""

    def __init__(
        self,
        limits: JointLimits,
        period_s: float,
        config: SafetyConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[SafetyEvent], None] | None = None,
        latch: StopLatch | None = None,
    ) -> None:
        """period_s: of the control loop. on_event must not block (see `EventLog`). latch: may outlive this filter, so
        that a stop lasts when the robot is connected again.
        """
        self.limits, self.period_s, self.config = limits, period_s, config or SafetyConfig()
        self.latch = StopLatch() if latch is None else latch
        self._motion = State.WAITING  # the state while nobody has stopped the filter
        self.refused = 0  # commands so far
        self._clock, self._on_event = clock, on_event
        self._position: Array | None = None
        self._before: Array | None = None  # the last tick
        self._velocity: Array = np.zeros(len(limits.names))
        self._target: Array = np.zeros(len(limits.names))
        self._target_velocity: Array = np.zeros(len(limits.names))
        self._interval = period_s  # between the last two targets
        self._end: Array | None = None  # where it comes to rest, since no more targets come
        self._last_stamp = self._last_accepted = -np.inf
        self._last_tick = self._started = clock()
        self._moved = -np.inf  # when a tick last moved

    def begin(self, measured: Positions) -> None:
        """Takes over an arm at rest at `measured` (J,). Raises UserError where a joint is unknown or outside its range.

        A joint slightly outside (within a tenth of its range) is let in, and can only move back.
        """
        position = self._numbers(measured, "measured positions")
        if isinstance(position, str):
            raise UserError(position)
        room = 0.1 * (self.limits.high - self.limits.low)
        outside = (position < self.limits.low - room) | (position > self.limits.high + room)
        if outside.any():
            joint = int(np.flatnonzero(outside)[0])
            raise UserError(
                f"Joint '{self.limits.names[joint]}' stands at {position[joint]:g}, outside {self.limits.low[joint]:g} to "
                f"{self.limits.high[joint]:g}. Move the arm by hand, or calibrate it again."
            )
        self._position, self._velocity = position, np.zeros_like(position)
        self._rest()

    @property
    def state(self) -> State:
        """Stopped as long as the latch is set, whatever another thread writes meanwhile."""
        return State.STOPPED if self.latch.is_set else self._motion

    # -- commands --------------------------------------------------------------------------------------------------
    def submit(self, target: Positions, stamp: float | None = None) -> bool:
        """A new target (J,); returns whether it was accepted. stamp: when it was decided on, in the clock's seconds.

        Refused are: anything but J finite numbers, a stamp before the last one, too old or in the future, and a start too far
        from the arm; they do not feed the watchdog. A target outside the limits is replaced by the nearest one inside.
        """
        now = self._clock()
        stamp = now if stamp is None else stamp
        wanted = self._numbers(target, "target")
        if isinstance(wanted, str):
            return self._refuse(now, "malformed", wanted)
        if self.state is State.STOPPED:
            return self._refuse(now, "stopped", "the filter is stopped; it needs an explicit reset")
        if self._position is None:
            return self._refuse(now, "not_begun", "the arm's position is not known: `begin` was not called")
        if not np.isfinite(stamp) or stamp > now + self.period_s:
            return self._refuse(now, "clock", f"stamp {stamp} lies in the future of {now}")
        if stamp < self._last_stamp:
            return self._refuse(
                now, "reordered", f"{self._last_stamp - stamp:.3f} s older than the last command"
            )
        if now - stamp > self.config.stale_s:
            return self._refuse(now, "stale", f"{now - stamp:.3f} s old")
        inside = np.clip(wanted, self.limits.low, self.limits.high)
        if self._motion is not State.MOVING:
            gate = self.config.start_gate
            far = np.abs(inside - self._position)
            if gate is not None and far.max() > gate:
                name = self.limits.names[int(far.argmax())]
                return self._refuse(
                    now, "start_gate", f"joint '{name}' would start {far.max():.1f} away from the arm"
                )
            self._motion, self._started = State.MOVING, now
            self._target_velocity, self._interval = np.zeros_like(inside), self.period_s
        else:
            elapsed = stamp - self._last_stamp
            known = elapsed > 1e-6 and self._end is None
            speed = (inside - self._target) / elapsed if known else np.zeros_like(inside)
            self._target_velocity = np.clip(speed, -self.limits.velocity, self.limits.velocity)
            self._interval = max(elapsed, self.period_s)
        self._end = None
        if (inside != wanted).any():
            self._tell(now, "clipped", f"target {np.abs(inside - wanted).max():.2f} beyond the limits")
        self._target, self._last_stamp, self._last_accepted = inside, stamp, now
        return True

    def stop(self, reason: str) -> None:
        """The arm brakes and stays at rest, whatever is submitted, until `reset`. May be called from any thread."""
        if self.latch.set():
            self._tell(self._clock(), "stop", reason)

    def hold(self, reason: str) -> None:
        """The arm brakes and waits for the next command, which ramps in again. May be called from any thread."""
        if self.state is State.MOVING:
            self._motion = State.HOLDING
            self._tell(self._clock(), "hold", reason)

    def reset(self) -> None:
        """Ends a stop. Nothing moves before a fresh command. A stop that arrives during the reset lasts."""
        token = self.latch.token
        if token is not None:
            self._tell(self._clock(), "reset", "the stop was lifted")
            self._rest()
            self.latch.lift(token)

    # -- what is sent ----------------------------------------------------------------------------------------------
    def tick(self, measured: Positions | None = None) -> Array:
        """The positions (J,) to send now. Call it once a period, whether or not there was a command.

        measured: where the arm is, to see that it follows. Raises UserError before `begin`.
        """
        if self._position is None:
            raise UserError("SafetyFilter.begin was not called: the arm's position is not known.")
        now, self._before = self._clock(), self._position
        dt = float(np.clip(now - self._last_tick, 0.0, self.period_s))
        self._last_tick = max(now, self._last_tick)
        if self.state is State.MOVING and now - self._last_accepted > self.config.watchdog_s:
            self.hold(f"no command for {now - self._last_accepted:.3f} s")
        if self.state is State.MOVING and measured is not None:
            self._check_following(measured)
        if self.state is State.MOVING:  # a stop may have come from another thread
            ramp = 1.0 if not self.config.ramp_s else min(1.0, (now - self._started) / self.config.ramp_s)
            target, target_velocity = self._aim(self._position, now)
            self._position, self._velocity = limited_step(
                self._position,
                self._velocity,
                target,
                target_velocity,
                self.limits,
                dt,
                self.config.speed_scale * ramp,
            )
        else:
            self._position, self._velocity = braking_step(self._position, self._velocity, self.limits, dt)
        if not self.at_rest:
            self._moved = now
        return self._position.copy()

    def _aim(self, position: Array, now: float) -> tuple[Array, Array]:
        """The target (J,) at this moment and its speed (J,): the last one, extrapolated until the next is overdue.

        When one whole interval went by without the next, the plan has ended: the arm comes to rest at the last target, or as
        soon as it can where it would pass that.
        """
        if now - self._last_accepted < 2 * self._interval - 1e-6:
            ahead = min(now - self._last_stamp, self.config.watchdog_s)
            target = self._target + self._target_velocity * ahead
            return np.clip(target, self.limits.low, self.limits.high), self._target_velocity
        if self._end is None:
            rest = position + self._velocity * np.abs(self._velocity) / (2 * self.limits.acceleration)
            passes = (rest - self._target) * self._velocity > 0
            self._end = np.clip(np.where(passes, rest, self._target), self.limits.low, self.limits.high)
        return self._end, np.zeros_like(position)

    def undo(self) -> None:
        """The last tick's positions never reached the arm: it stands where it was sent before."""
        if self._before is not None:
            self._position, self._velocity = self._before, np.zeros_like(self._velocity)

    @property
    def at_rest(self) -> bool:
        return not self._velocity.any()

    def rests(self, seconds: float) -> bool:
        """Whether it has been at rest for so long. The arm itself comes to rest later than its commands."""
        return self.at_rest and self._clock() - self._moved >= seconds - 1e-6

    def _check_following(self, measured: Positions) -> None:
        allowed, position = self.config.following_error, self._numbers(measured, "measured positions")
        if isinstance(position, str):
            self.hold(position)
        elif allowed is not None and self._position is not None:
            error = np.abs(position - self._position)
            if (error > allowed).any():
                joint = int(np.argmax(error > allowed))
                self.stop(
                    f"joint '{self.limits.names[joint]}' is {error[joint]:.1f} away from its command: blocked or overloaded?"
                )

    def _rest(self) -> None:
        self._motion = State.WAITING
        self._last_stamp = self._last_accepted = -np.inf
        self._last_tick = self._clock() - self.period_s  # so that the first tick may be one's worth of motion

    def _numbers(self, values: Positions, what: str) -> Array | str:
        """(J,) float64, or what is wrong with it."""
        try:
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            return f"the {what} are no numbers"
        if array.shape != (len(self.limits.names),):
            return f"the {what} have shape {array.shape}; expected ({len(self.limits.names)},)"
        if not np.isfinite(array).all():
            return f"the {what} hold NaN or infinity for joint '{self.limits.names[int(np.argmin(np.isfinite(array)))]}'"
        return array.copy()

    def _refuse(self, now: float, kind: str, detail: str) -> bool:
        self.refused += 1
        self._tell(now, f"refused_{kind}", detail)
        return False

    def _tell(self, now: float, kind: str, detail: str) -> None:
        if self._on_event is not None:
            self._on_event(SafetyEvent(now, kind, detail))
