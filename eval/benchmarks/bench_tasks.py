"""Tables of a bench whose environment plays several tasks in turn: success of each task, and differences paired by task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ebt_policy.eval.report.report import Result, Table, find, points
from ebt_policy.eval.statistics.intervals import crossed_mean, wilson


def task_tables(results: Sequence[Result], reference: str, tasks: Sequence[str]) -> list[Table]:
    """What a report says of the tasks."""
    return [by_task_table(results, tasks), paired_tasks_table(results, reference, tasks)]


def by_task_table(results: Sequence[Result], tasks: Sequence[str]) -> Table:
    """Success by task and policy, of an env that plays `tasks` in turn; over all training seeds."""
    rows = []
    for number, task in enumerate(tasks):
        cells = []
        for result in results:
            solved = [
                episode.success
                for episodes in result.episodes.values()
                for episode in episodes
                if episode.seed % len(tasks) == number
            ]
            low, high = wilson(sum(solved), len(solved))
            share = f"{sum(solved) / len(solved):.0%}" if solved else "-"
            cells.append(f"{share} [{100 * low:.0f}, {100 * high:.0f}]")
        rows.append((task, *cells))
    note = "Wilson's 95 % intervals over all episodes of a task, as if several trainings were one."
    return Table(("Task", *(result.name for result in results)), tuple(rows), "Success by task", (note,))


def paired_tasks_table(results: Sequence[Result], reference: str, tasks: Sequence[str]) -> Table:
    """Success minus that of the reference, task by task on the same episodes; the interval resamples tasks instead of episodes."""
    base = find(results, reference)
    numbers = np.array(base.environment_seeds) % len(tasks)
    rows = []
    for result in results:
        if result.name == reference:
            continue
        shared = sorted(result.episodes.keys() & base.episodes.keys())
        difference = result.matrix("success", shared) - base.matrix(
            "success", shared
        )  # (trainings, episodes)
        by_task = np.stack([difference[:, numbers == n].mean(1) for n in np.unique(numbers)], axis=1)
        means = by_task.mean(0)
        better, worse = (means > 0).sum(), (means < 0).sum()
        rows.append(
            (
                result.name,
                points(crossed_mean(by_task)),
                str(better),
                str(worse),
                str(len(means) - better - worse),
            )
        )
    columns = ("Policy", f"Success minus {reference}", "Tasks above", "Tasks below", "Tasks equal")
    note = "Mean of the tasks' differences; 95 % intervals by a bootstrap over tasks, and over trainings where there are several."
    return Table(columns, tuple(rows), f"Against {reference}, paired by task", (note,))
