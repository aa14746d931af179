"""One episode watched: its running score, that score's calibrated quantile, and whether it is an alarm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.signals import RunningScore


@dataclass(frozen=True)
class Reading:
    """After one decision. quantile: share of calibration episodes whose largest score stayed below this one."""

    score: float
    quantile: float
    alarm: bool


class Monitor:
    """Watches one episode, decision by decision."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.worst = 0.0  # the episode's score so far, for a DriftWatch
        self._score = RunningScore(calibration.statistic)
        self._decisions = 0

    def update(self, values: Mapping[str, float]) -> Reading:
        """values: the decision's signals by name. A score that is no number is an alarm."""
        score = self._score.update(values)
        if self._decisions < self.calibration.horizon:
            self.worst = max(self.worst, score)
        self._decisions += 1
        alarm = isnan(score) or score > self.calibration.threshold
        return Reading(score, 1.0 if isnan(score) else self.calibration.quantile(score), alarm)

    def reset_score(self) -> None:
        """Starts the score again, after something was done about an alarm."""
        self._score = RunningScore(self.calibration.statistic)
