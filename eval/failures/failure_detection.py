"""How well and how early a score separates failures from successes.

Failures last until the time limit, so any score that grows with time would detect them. Every failure is therefore cut to
the length of a randomly drawn success; a time index then has an AUROC of .5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ebt_policy.eval.rollout.watched_episodes import WatchedEpisode
from ebt_policy.eval.statistics.intervals import auc
from ebt_policy.monitoring.calibration import conformal_rank
from ebt_policy.monitoring.signals import Statistic

CELLS = ("success", "success, disturbed", "failure", "failure, disturbed")


@dataclass(eq=False)
class Scored:
    """One test episode with one detector. running (D,): score after each decision; ticks (D,): their ticks; length: in ticks."""

    cell: str
    running: NDArray[np.float64]
    ticks: NDArray[np.int64]
    length: int
    _alarms: dict[float, float | None] = field(default_factory=dict, repr=False)  # cached for the bootstrap

    @property
    def failure(self) -> bool:
        return self.cell.startswith("failure")

    @cached_property
    def worst(self) -> float:
        return float(self.running.max(initial=0.0))

    def alarm(self, threshold: float) -> float | None:
        """When the score first exceeded the threshold, as a share of the episode in 0..1; None: never."""
        if threshold not in self._alarms:
            above = np.flatnonzero(self.running > threshold)
            self._alarms[threshold] = float(self.ticks[above[0]] / self.length) if len(above) else None
        return self._alarms[threshold]


@dataclass(frozen=True)
class AtAlpha:
    """With the threshold for alpha: alarms on failures (tpr), silence on successes (tnr), their mean, the mean part of a
    failure that had passed at its alarm (of those found), and FIPER's time-weighted accuracy: a failure found counts
    1 - that part (arXiv 2510.09459). false_alarms: on undisturbed successes, which the calibration bounds.
    """

    tpr: float
    tnr: float
    balanced_accuracy: float
    detection_time: float
    time_weighted_accuracy: float
    false_alarms: float


def cell_of(episode: WatchedEpisode) -> str:
    return CELLS[2 * (not episode.success) + ("+" in episode.env)]


def matched_lengths(episodes: Sequence[WatchedEpisode], seed: int = 0) -> list[int]:
    """Decisions of each episode that count: all of a success; of a failure, as many as a success drawn at random had."""
    rng = np.random.default_rng(seed)
    lengths = [e.decisions for e in episodes if e.success]
    return [e.decisions if e.success else min(int(rng.choice(lengths)), e.decisions) for e in episodes]


def scored(
    statistic: Statistic, episodes: Sequence[WatchedEpisode], decisions: Sequence[int]
) -> list[Scored]:
    """The running scores of the first `decisions` of each episode."""
    found = []
    for episode, n in zip(episodes, decisions, strict=True):
        end = int(episode.ticks[n]) if n < episode.decisions else episode.length
        found.append(Scored(cell_of(episode), statistic.running(episode.rows()[:n]), episode.ticks[:n], end))
    return found


def at_alpha(test: Sequence[Scored], calibration: Sequence[float], alpha: float) -> AtAlpha:
    """The rates at false alarm rate alpha. calibration: scores of its episodes. Raises UserError if there are too few."""
    threshold = sorted(calibration)[conformal_rank(len(calibration), alpha) - 1]
    times = [e.alarm(threshold) for e in test if e.failure]
    found = [t for t in times if t is not None]
    silent = [e.alarm(threshold) is None for e in test if not e.failure]
    usual = [e.alarm(threshold) is not None for e in test if e.cell == CELLS[0]]
    failures = len(times) or float("nan")
    tpr, tnr = len(found) / failures, float(np.mean(silent))
    weighted = sum(1 - t for t in found) / failures
    return AtAlpha(
        tpr=tpr,
        tnr=tnr,
        balanced_accuracy=(tpr + tnr) / 2,
        detection_time=float(np.mean(found)) if found else float("nan"),
        time_weighted_accuracy=(weighted + tnr) / 2,
        false_alarms=float(np.mean(usual)),
    )


def auroc(
    test: Sequence[Scored], positive: Sequence[str] = CELLS[2:], negative: Sequence[str] = CELLS[:2]
) -> float:
    """Probability that an episode of the cells `positive` has a higher score than one of `negative`; NaN if either is empty."""
    above, below = ([e.worst for e in test if e.cell in cells] for cells in (positive, negative))
    return auc(above, below) if above and below else float("nan")


def resampled(test: Sequence[Scored], rng: np.random.Generator) -> list[Scored]:
    """A bootstrap sample: as many episodes of each cell, drawn with replacement."""
    drawn: list[Scored] = []
    for cell in CELLS:
        those = [e for e in test if e.cell == cell]
        drawn += [those[i] for i in rng.integers(len(those), size=len(those))] if those else []
    return drawn
