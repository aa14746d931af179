"""The clock of a control loop: real time, or simulated time that moves only while the loop sleeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

# A sleep ends this much before its time and the rest is waited out: the scheduler wakes us some 0.1 ms late.
_SPIN_S = 2e-4
# Part of a tick by which a sum of periods may miss a multiple of the period.
_ROUNDING = 1e-6


class Clock(Protocol):
    """Seconds since some moment; they never go backwards."""

    def now(self) -> float: ...

    def sleep_until(self, t: float) -> None:
        """Returns at once where `t` has passed."""


class WallClock:
    """The machine's monotonic time. A sleep never ends early."""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, t: float) -> None:
        while (left := t - time.monotonic()) > _SPIN_S:
            time.sleep(left - _SPIN_S)
        while time.monotonic() < t:
            time.sleep(0)  # lets other threads of this process go on


class SteppedClock:
    """Simulated time: it stands still until somebody sleeps, and a sleep takes as long as the simulation of it.

    `step` is called once at the end of every period of 1 / fps seconds that is slept through. For one thread alone.
    """

    def __init__(self, fps: float, step: Callable[[], None]) -> None:
        self._fps, self._step = fps, step
        self._now = self._origin = 0.0
        self._steps = 0  # since the origin

    def now(self) -> float:
        return self._now

    def sleep_until(self, t: float) -> None:
        """Simulates up to `t`. What `step` raises comes out of here, with the time at which it happened."""
        due = math.floor((t - self._origin) * self._fps + _ROUNDING)
        while self._steps < due:
            self._steps += 1
            self._now = max(self._now, self._origin + self._steps / self._fps)
            self._step()
        self._now = max(self._now, t)

    def restart(self) -> None:
        """A period begins now."""
        self._origin, self._steps = self._now, 0
