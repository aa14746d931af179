"""Timing of a control loop: how late its ticks were, how old its commands, and how long planning takes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Seconds. nan where nothing was measured."""

    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        if not seconds:
            return cls(float("nan"), float("nan"), float("nan"))
        return cls(*map(float, np.percentile(seconds, [50, 99, 100])))

    def __str__(self) -> str:
        return f"{1e3 * self.median:.2f} / {1e3 * self.p99:.2f} / {1e3 * self.most:.2f} ms"


@dataclass(frozen=True)
class Punctuality:
    """jitter: how late ticks began. work: how long they took. age: from a plan's observation to the command that was sent.
    missed: ticks left out because an earlier one took too long.
    """

    ticks: int
    missed: int
    jitter: Spread
    work: Spread
    age: Spread


class Stopwatch:
    """Collects times in the loop; a tick costs three appends to lists."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._work: list[float] = []
        self._ages: list[float] = []
        self.missed = 0

    def tick(self, late_s: float, work_s: float, age_s: float | None) -> None:
        """One tick: how late it began, how long it took, and the age of its command where there was one."""
        self._late.append(late_s)
        self._work.append(work_s)
        if age_s is not None:
            self._ages.append(age_s)

    def punctuality(self) -> Punctuality:
        return Punctuality(
            len(self._late), self.missed, Spread.of(self._late), Spread.of(self._work), Spread.of(self._ages)
        )


@dataclass
class PlanningDelay:
    """Seconds from an observation to its plan being followed, of the last plans."""

    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def usual_s(self) -> float:
        """What nine of ten plans keep; 0 before the first."""
        return float(np.quantile(self._seconds, 0.9)) if self._seconds else 0.0
