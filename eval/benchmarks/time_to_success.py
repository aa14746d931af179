"""Minutes of training until each policy of a bench first succeeds as often as another one does in the end.

Legend: K trainings, n episodes at each checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ebt_policy.eval.benchmarks.training_cost import LearningPoint, TrainedRow
from ebt_policy.eval.report.report import Result, Table, find, percent
from ebt_policy.eval.statistics.intervals import RESAMPLES, Interval, crossed_draws


def time_table(results: Sequence[Result], trained: Sequence[TrainedRow], target: str) -> Table:
    """One row for each learning curve. target: the name of the result whose final success is to be reached."""
    goal = find(results, target)
    rows = []
    for row in trained:
        if not row.learning_curve:
            continue
        found = minutes_until(row.learning_curve, goal)
        if np.isfinite(found.estimate):
            later = f"{found.high:.1f}" if np.isfinite(found.high) else "not reached"
            shown = f"{found.estimate:.1f} [{found.low:.1f}, {later}]"
        else:
            shown = f"not in {row.learning_curve[-1].seconds / 60:.1f}"
        rows.append((row.learning_curve[0].result.name, shown, f"{row.seconds / 60:.1f}"))
    title = f"Minutes of training until the final success of {target}, {percent(goal.success)}"
    note = (
        "Straight lines between checkpoints; 95 % intervals resample trainings and episodes, those of the final success "
        "among them. A policy counts from the first checkpoint on at which it succeeds as often."
    )
    return Table(("Policy", "Minutes until then", "Whole training, minutes"), tuple(rows), title, (note,))


def minutes_until(curve: Sequence[LearningPoint], goal: Result) -> Interval:
    """Minutes until the mean success of `curve` first reaches the goal's; infinite where it does not."""
    minutes = np.array([0.0, *(point.seconds / 60 for point in curve)])
    reached = np.stack([point.result.matrix("success") for point in curve])  # (checkpoints, K, n)
    final = goal.matrix("success")
    estimate = _crossing(minutes, reached.mean((1, 2)), final.mean())
    rows, columns = crossed_draws(reached.shape[1:], RESAMPLES)
    drawn = np.einsum("rk,ckn,rn->rc", rows, reached, columns, optimize=True) / reached[0].size
    goal_rows, goal_columns = crossed_draws(final.shape, RESAMPLES, seed=1)
    goals = ((goal_rows @ final) * goal_columns).sum(1) / final.size
    times = [_crossing(minutes, success, aim) for success, aim in zip(drawn, goals, strict=True)]
    low, high = np.percentile(times, [2.5, 97.5], method="nearest")
    return Interval(estimate, float(low), float(high))


def _crossing(minutes: np.ndarray, success: np.ndarray, aim: float) -> float:
    """When the line from no success at the start through (minutes[1:], success) first reaches `aim`."""
    line = np.concatenate([[0.0], success])
    above = np.flatnonzero(line >= aim)
    if not len(above):
        return float("inf")
    i = int(above[0])
    if i == 0:
        return 0.0
    share = (aim - line[i - 1]) / (line[i] - line[i - 1])
    return float(minutes[i - 1] + share * (minutes[i] - minutes[i - 1]))
