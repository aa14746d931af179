"""Reads the operator's device beside the control loop, and moves a leader with motors to the follower's pose.

The loop never waits for the device: it takes the newest reading, and a reading that is too old ends the takeover.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from lerobot.common.control_utils import teleop_supports_feedback
from lerobot.teleoperators.teleoperator import Teleoperator
from lerobot.teleoperators.utils import TeleopEvents

from ebt_policy.hardware.control.clock import Clock
from ebt_policy.hardware.control.commands import Command
from ebt_policy.hardware.safety.arms import arms_of
from ebt_policy.hardware.takeover.device import Array, Device, connect

IDLE_HZ = 10.0  # while the policy drives
RETRY_S = 1.0  # between two attempts to connect a lost device again


class LeaderState(StrEnum):
    """IDLE: not needed. MATCHING: on its way to the follower's pose. READY: there, or without motors. DRIVEN: free for the operator."""

    IDLE = "idle"
    MATCHING = "matching"
    READY = "ready"
    DRIVEN = "driven"


@dataclass(frozen=True)
class Reading:
    """The newest state of the device.

    served: number of the request that it has begun to fulfil. positions (J,): in the arm's units, read at `stamp` seconds; None
    before the first. wants: whether the device itself says
    that the operator drives, as LeRobot's gamepads do; None where it says nothing. trouble: why it cannot be read now, "" if it can.
    matched: its motors hold the follower's pose, or held it when the operator took over.
    """

    state: LeaderState = LeaderState.IDLE
    served: int = 0
    positions: Array | None = None
    stamp: float = -np.inf
    wants: bool | None = None
    trouble: str = ""
    matched: bool = False


class LeaderService(Protocol):
    """What the control loop needs of a leader. None of it waits, except in simulated time."""

    def poll(self) -> Reading: ...

    def match(self, goal: Array) -> int:
        """Moves the device's motors, if it has any, to the follower's pose `goal` (J,). Returns the number of the request."""
        ...

    def release(self) -> int:
        """Lets the operator move it. Returns the number of the request."""
        ...

    def idle(self) -> None:
        """It is not needed any more."""

    def close(self) -> None: ...


class Leader:
    """One device. `work` talks to it and may block; all else only exchanges references and never does."""

    def __init__(
        self,
        teleop: Teleoperator,
        device: Device,
        joints: tuple[str, ...],
        widths: Array,
        hz: float,
        match_speed: float = 0.25,
        on_command: Callable[[Command], None] = lambda command: None,
    ) -> None:
        """widths (J,): of the joints' ranges. hz: how often `work` is called while the device is needed. match_speed: of the
        leader's motors, part of a range per second. on_command: for the device's own success and failure buttons.
        """
        self.teleop, self.device = teleop, device
        self.reading = Reading()
        self._names = tuple(f"{name}.pos" for name in joints)
        self._step = widths * match_speed / hz
        self._on_command = on_command
        self.motors = teleop_supports_feedback(teleop)  # which can bring it to the arm's pose
        # What the loop wants, replaced whole: (number, state, follower's pose).
        self._wish: tuple[int, LeaderState, Array | None] = (0, LeaderState.IDLE, None)
        self._done: object = self._wish
        self._at: Array | None = None  # where its motors were sent
        self._goal: Array | None = None
        self._retry = -np.inf
        self._ended = False

    def wish(self, state: LeaderState, goal: Array | None = None) -> int:
        """What `work` is to do next. Returns the number of the request."""
        if state is LeaderState.MATCHING and not self.motors:
            state = LeaderState.READY
        number = self._wish[0] + 1
        self._wish = (number, state, goal)
        return number

    @property
    def needed(self) -> bool:
        return self._wish[1] is not LeaderState.IDLE

    def work(self, now: float) -> None:
        """Does what is wished and reads the device once. Raises nothing: what fails is told in the reading."""
        wish, reading = self._wish, self.reading
        try:
            if self.reading.trouble and now >= self._retry:
                self._connect_again(now)
            if wish is not self._done:
                number, state, goal = wish
                self._begin(state, goal)
                self._done = wish
                kept = reading.matched and state is LeaderState.DRIVEN
                reading = replace(reading, state=state, served=number, matched=kept)
            action = self.teleop.get_action()
            positions = self.device.positions(action, now)
            if self._goal is not None and not self._move(positions):
                reading = replace(reading, state=LeaderState.READY, matched=True)
            reading = replace(reading, positions=positions, stamp=now, wants=self._events(), trouble="")
        except Exception as error:  # each device raises its own
            if not reading.trouble:
                self._retry = now + RETRY_S
            reading = replace(reading, trouble=f"{type(error).__name__}: {error}", wants=None)
        self.reading = reading

    def _begin(self, state: LeaderState, goal: Array | None) -> None:
        self._goal = self._at = None
        if not self.motors:
            return
        if state is LeaderState.MATCHING:
            self.teleop.enable_torque()  # type: ignore[attr-defined]  # `teleop_supports_feedback` has looked
            self._goal = goal
        else:
            self.teleop.disable_torque()  # type: ignore[attr-defined]

    def _move(self, positions: Array) -> bool:
        """One step towards the goal. False once it was sent there."""
        assert self._goal is not None  # the caller has looked
        at = positions if self._at is None else self._at
        self._at = at + np.clip(self._goal - at, -self._step, self._step)
        self.teleop.send_feedback(dict(zip(self._names, map(float, self._at), strict=True)))
        if (self._at != self._goal).any():
            return True
        self._goal = None  # the motors go on holding it
        return False

    def _events(self) -> bool | None:
        """Whether the device says that the operator drives; its success and failure buttons become commands."""
        ask = getattr(self.teleop, "get_teleop_events", None)
        if ask is None:
            return None
        events: Mapping[Any, Any] = ask()
        ends = bool(events.get(TeleopEvents.SUCCESS)) or bool(events.get(TeleopEvents.TERMINATE_EPISODE))
        if ends and not self._ended:
            self._on_command(Command.SUCCESS if events.get(TeleopEvents.SUCCESS) else Command.FAILURE)
        self._ended = ends
        wants = events.get(TeleopEvents.IS_INTERVENTION)
        return None if wants is None else bool(wants)

    def _connect_again(self, now: float) -> None:
        self._retry = now + RETRY_S
        with contextlib.suppress(Exception):
            self.teleop.disconnect()
        for arm in arms_of(self.teleop):  # LeRobot gives up at the first whose torque cannot be switched off
            if arm.robot.is_connected and arm.bus is not None:
                arm.bus.disconnect(disable_torque=False)
        if not self.teleop.is_connected:
            connect(self.teleop)
        self._done = None  # what was begun is forgotten by a device that was away

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._begin(LeaderState.IDLE, None)
        with contextlib.suppress(Exception):
            self.teleop.disconnect()


class InlineLeader:
    """A leader that is read at every poll: for simulated time."""

    def __init__(self, leader: Leader, clock: Clock) -> None:
        self._leader, self._clock = leader, clock
        self.name, self.motors = leader.teleop.name, leader.motors

    def poll(self) -> Reading:
        self._leader.work(self._clock.now())
        return self._leader.reading

    def match(self, goal: Array) -> int:
        return self._leader.wish(LeaderState.MATCHING, goal)

    def release(self) -> int:
        return self._leader.wish(LeaderState.DRIVEN)

    def idle(self) -> None:
        self._leader.wish(LeaderState.IDLE)

    def close(self) -> None:
        self._leader.close()


class LeaderThread(InlineLeader):
    """A leader that is read on a thread of its own, however long that takes."""

    def __init__(self, leader: Leader, clock: Clock, hz: float) -> None:
        super().__init__(leader, clock)
        self._period, self._idle_period = 1 / hz, max(1 / hz, 1 / IDLE_HZ)
        self._ending = threading.Event()
        # A daemon: a device that never answers must not keep the process, and with it the arm, alive.
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)
        self._thread.start()

    def poll(self) -> Reading:
        return self._leader.reading

    def close(self) -> None:
        """Waits at most two seconds for the device."""
        self._ending.set()
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._leader.close()

    def _run(self) -> None:
        due = self._clock.now()
        while not self._ending.is_set():
            self._leader.work(self._clock.now())
            due = max(due + (self._period if self._leader.needed else self._idle_period), self._clock.now())
            self._ending.wait(max(due - self._clock.now(), 0.0))
