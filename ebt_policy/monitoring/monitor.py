"""Running score of one episode, its calibrated quantile, and whether it is an alarm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.signals import RunningScore


@dataclass(frozen=True)
class Reading:
    """After one decision. quantile: share of calibration episodes whose largest score stayed below this one. beyond: the episode is
    longer than the calibration covers: from here on the rate of false alarms is not bounded, and it grows with every decision.
    """

    score: float
    quantile: float
    alarm: bool
    beyond: bool = False


class Monitor:
    """The running score of one episode. `update` once for each decision."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._score = RunningScore(calibration.statistic)
        self._decisions = 0  # of the episode

    def update(self, values: Mapping[str, float]) -> Reading:
        """values: the decision's signals by name, without those that it does not have. A NaN or infinite one alarms."""
        score = self._score.update(values)
        self._decisions += 1
        return Reading(
            score,
            self.calibration.quantile(score),
            score > self.calibration.threshold,
            self._decisions > self.calibration.horizon,
        )

    def reset_score(self) -> None:
        """Begins a new score, after a recovery action; the episode goes on."""
        self._score = RunningScore(self.calibration.statistic)
