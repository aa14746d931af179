"""Timing of a control loop: how late its ticks were, and how old its commands."""

from __future__ import annotations

from dataclasses import dataclass

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
