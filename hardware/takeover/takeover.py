"""Who drives the arm: the policy, nobody (it asks), or the operator. The `Takeover` of the control loop, with an operator's device.

    POLICY --(alarm, key, or the device's own button)--> ASKING --(key, once the leader is matched)--> CORRECTING --(key)--> POLICY
    ASKING --(reset)--> POLICY; CORRECTING --(leader lost, stop, fault of the arm)--> ASKING

While it asks the arm holds, and a leader with motors is moved to the arm's pose. The operator's motion is relative to the moment of
taking over, so nothing jumps. What is left between a matched leader and the arm then fades out, and both have the same pose.
Legend: J joints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ebt_policy.hardware.control.episode import Drive, Phase
from ebt_policy.hardware.safety.filter import SafetyEvent
from ebt_policy.hardware.safety.limits import JointLimits
from ebt_policy.hardware.takeover.device import Array
from ebt_policy.hardware.takeover.leader import LeaderService, LeaderState, Reading

LOST_S = 0.25  # without a reading of the leader for longer, the arm holds
IDLE_LOST_S = 1.0  # the same while the policy drives, when it is read less often
FADE_S = 1.0  # in which what is left between a matched leader and the arm goes to zero
NEAR = 0.1  # part of a joint's range: a leader that is farther from the arm was not matched


class LeaderTakeover:
    """The phases of one episode after the other. None of its calls wait."""

    def __init__(
        self, leader: LeaderService, limits: Callable[[], JointLimits], on_event: Callable[[Any], None]
    ) -> None:
        """limits: of the arm, asked for at each takeover. on_event: must not block."""
        self.phase = Phase.POLICY
        self.asked_at = np.inf  # since when nobody has answered
        self._leader, self._limits, self._on_event = leader, limits, on_event
        self._pressed = False
        self._request = 0  # number of the last request to the leader; 0: not yet matched
        self._told_matched = False
        self._wanted = False  # the device's own button, at the last tick
        self._lost = False
        self._range: tuple[Array, Array] = (np.empty(0), np.empty(0))
        self._offset: Array = np.empty(0)  # of the arm from the leader
        self._began = self._stamp = -np.inf
        self._matched = False

    @property
    def active(self) -> bool:
        """The policy does not drive."""
        return self.phase is not Phase.POLICY

    def begin(self) -> None:
        """A new episode begins with the policy."""
        if self.active:
            self._leader.idle()
        self.phase, self.asked_at, self._pressed = Phase.POLICY, np.inf, False

    def ask(self, reason: str, now: float) -> None:
        """The arm is to hold until somebody takes over or lets the policy go on."""
        if self.phase is not Phase.ASKING:
            self.phase, self.asked_at = Phase.ASKING, now
            self._pressed, self._request, self._told_matched = False, 0, False
            self._tell(now, "asks", reason)

    def press(self, now: float) -> None:
        """The operator's key: asks, takes over, or hands back."""
        if self.phase is Phase.CORRECTING:
            self._hand_back(now)
        elif self.phase is Phase.POLICY:
            self.ask("the operator wants to take over", now)
        else:
            self._pressed = True

    def go_on(self, now: float) -> None:
        """The policy goes on without a correction."""
        if self.phase is Phase.ASKING:
            self._tell(now, "goes_on", "without a correction")
            self._leave()

    def tick(self, now: float, commanded: Array | None, at_rest: bool, hindrance: str) -> Drive | None:
        """The operator's command, if there is a new one.

        commanded (J,): last sent to the arm; None while unknown. at_rest: the arm has come to rest. hindrance: why it must not
        move now, "" if it may.
        """
        reading = self._leader.poll()
        self._watch(reading, now)
        rising = bool(reading.wants) and not self._wanted
        falling = self._wanted and reading.wants is False
        self._wanted = bool(reading.wants) if reading.wants is not None else self._wanted
        if self.phase is Phase.POLICY and rising:
            self.ask("the operator wants to take over", now)
        if self.phase is Phase.CORRECTING:
            return self._correct(reading, now, falling, hindrance, commanded)
        if self.phase is Phase.ASKING and commanded is not None and at_rest and not hindrance:
            return self._wait(reading, now, commanded)
        return None

    def _wait(self, reading: Reading, now: float, commanded: Array) -> Drive | None:
        """The leader is matched; as soon as the operator wants, the correction begins."""
        self._pressed = self._pressed or bool(reading.wants)
        if self._lost:
            self._request = 0
        elif not self._request:
            self._request = self._leader.match(commanded)
        elif reading.served != self._request or reading.trouble or reading.positions is None:
            return None
        elif reading.state is LeaderState.READY:
            if reading.matched and not self._told_matched:
                self._told_matched = True
                self._tell(now, "matched", "the leader has the arm's pose")
            if self._pressed:
                self._request = self._leader.release()
        elif reading.state is LeaderState.DRIVEN:
            limits = self._limits()
            self._range = (limits.low, limits.high)
            self._offset = commanded - reading.positions
            near = np.abs(self._offset) <= NEAR * (limits.high - limits.low)
            self._matched = reading.matched and bool(near.all())
            self.phase, self.asked_at, self._pressed = Phase.CORRECTING, np.inf, False
            self._began = self._stamp = reading.stamp
            how = "the leader has the arm's pose" if self._matched else "relative to where both are now"
            self._tell(now, "takes_over", how)
            return Drive(commanded, reading.stamp)
        return None

    def _correct(
        self, reading: Reading, now: float, falling: bool, hindrance: str, commanded: Array | None
    ) -> Drive | None:
        if falling:
            self._hand_back(now)
            return None
        if hindrance or self._lost or commanded is None:
            self.ask(
                f"the takeover was broken off: {hindrance or reading.trouble or 'the leader is late'}", now
            )
            return None
        if reading.positions is None or reading.stamp <= self._stamp:
            return None
        self._stamp = reading.stamp
        low, high = self._range
        offset = self._offset
        if self._matched:
            offset = offset * max(0.0, 1.0 - (reading.stamp - self._began) / FADE_S)
        target = reading.positions + offset
        inside = np.clip(target, low, high)
        if not self._matched:  # motion beyond a limit is not stored up: the way back begins at once
            self._offset = self._offset + inside - target
            target = inside
        return Drive(target, reading.stamp)

    def _watch(self, reading: Reading, now: float) -> None:
        """Tells when the leader is lost and when it is back. While the policy drives it is read less often."""
        age = now - reading.stamp
        lost = age > (LOST_S if self.active else IDLE_LOST_S)
        if lost and not self._lost:
            self._tell(now, "leader_lost", reading.trouble or f"no reading for {age:.2f} s")
        elif self._lost and not lost:
            self._tell(now, "leader_back", "the leader answers again")
        self._lost = lost

    def _hand_back(self, now: float) -> None:
        self._tell(now, "hands_back", f"after {now - self._began:.1f} s")
        self._leave()

    def _leave(self) -> None:
        self._leader.idle()
        self.phase, self.asked_at = Phase.POLICY, np.inf

    def _tell(self, now: float, kind: str, detail: str) -> None:
        self._on_event(SafetyEvent(now, kind, detail))
