"""Recent joint positions, to look up the state at the time when a picture was taken."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class JointHistory:
    """A ring buffer of measured joint positions. One thread may add while others read."""

    def __init__(self, period_s: float, capacity: int = 256) -> None:
        """period_s: of the control loop; also how far outside the ring a time may lie."""
        self.period_s = period_s
        self._ring: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=capacity)
        self._lock = threading.Lock()

    def add(self, stamp: float, positions: Sequence[float] | NDArray[np.floating]) -> None:
        """positions (J,), measured at `stamp` seconds. Raises ValueError unless stamps rise."""
        # A copy: a loop may reuse its array.
        row = np.array(positions, dtype=np.float64)
        with self._lock:
            if self._ring and stamp <= self._ring[-1][0]:
                raise ValueError(
                    f"joint positions of {stamp:.4f} s came after those of {self._ring[-1][0]:.4f} s"
                )
            self._ring.append((stamp, row))

    def at(self, time: float) -> NDArray[np.float64]:
        """Positions (J,) at `time`: linear between two measurements, the nearest one up to a period outside the ring.

        Raises LookupError when the ring is empty or `time` lies farther outside.
        """
        with self._lock:
            ring = tuple(self._ring)
        if not ring:
            raise LookupError("no joint positions have been measured yet")
        if not ring[0][0] - self.period_s <= time <= ring[-1][0] + self.period_s:
            raise LookupError(
                f"joint positions are known from {ring[0][0]:.3f} to {ring[-1][0]:.3f} s, not at {time:.3f} s"
            )
        # From the newest on: pictures are a few periods old, the ring holds hundreds.
        for (before, low), (after, high) in zip(reversed(ring[:-1]), reversed(ring[1:]), strict=True):
            if before <= time:
                share = min((time - before) / (after - before), 1.0)
                return low + share * (high - low)
        return ring[0][1].copy()
