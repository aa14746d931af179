"""Checks that what the motors report is possible, before a policy or the safety filter uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ebt_policy.hardware.safety.limits import Positions

ROOM = 0.1  # of its range: a joint may be measured so far outside (as `SafetyFilter.begin` allows)
MAX_RANGES_PER_S = 5.0  # fastest joint; an SO-101 at 12 V turns through less than two ranges per second
SAME_C = 3.0  # degrees Celsius: two readings of a temperature, taken at once, differ by no more
NOISE = 0.02  # of its range: allowed in addition, whatever the time between two readings


class ImplausibleReading(ConnectionError):
    """The robot reported a position that no joint can have. A connection error: the bus was read wrongly."""


class JointReadings:
    """Compares each reading with the joints' ranges and with the last reading that was possible."""

    def __init__(self, joints: Sequence[str], low: Positions, high: Positions) -> None:
        """joints: J names. low, high: (J,) ranges in the robot's units."""
        self._joints = tuple(joints)
        self._low, self._high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._last: tuple[float, np.ndarray] | None = None

    def restart(self) -> None:
        """The joints may be anywhere: the next reading is compared with the ranges only."""
        self._last = None

    def check(self, observation: Mapping[str, float], now: float) -> None:
        """observation: {NAME.pos: position}. now: seconds. Raises ImplausibleReading; otherwise the reading is remembered.

        The distance allowed grows with the time since the last possible reading, so a joint that was really moved is
        believed again soon.
        """
        positions = np.array([observation[f"{name}.pos"] for name in self._joints], np.float64)
        size = self._high - self._low
        outside = ~(
            (positions >= self._low - ROOM * size) & (positions <= self._high + ROOM * size)
        )  # NaN too
        if outside.any():
            j = int(np.flatnonzero(outside)[0])
            raise ImplausibleReading(
                f"joint '{self._joints[j]}' reads {positions[j]:g}, outside its range of {self._low[j]:g} to "
                f"{self._high[j]:g}"
            )
        if self._last is not None:
            before, last = self._last
            seconds = max(now - before, 0.0)
            far = np.abs(positions - last) > (MAX_RANGES_PER_S * seconds + NOISE) * size
            if far.any():
                j = int(np.flatnonzero(far)[0])
                raise ImplausibleReading(
                    f"joint '{self._joints[j]}' reads {positions[j]:g}, {seconds:.3f} s after {last[j]:g}: no joint is so fast"
                )
        self._last = now, positions


def confirmed_above(
    allowed: float, read: Callable[[], Mapping[str, float]], distrust: Callable[[], None]
) -> dict[str, float]:
    """{motor: degrees Celsius} of those above `allowed` in two readings that agree within SAME_C.

    read: gives the temperature of each motor. distrust: called between the readings, so that the second one is fresh.
    """
    first = {name: value for name, value in read().items() if value > allowed}
    if not first:
        return {}
    distrust()
    second = read()
    return {
        name: second[name]
        for name, value in first.items()
        if second.get(name, -1e9) > allowed and abs(second[name] - value) <= SAME_C
    }
