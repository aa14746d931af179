"""Is thinking longer worth more the further the world is from the training data?

`python -m ebt_policy.eval.benchmarks.thinking_law RUN --shorter EBT-1 --longer EBT-8` reads the folder of a bench whose tasks are one
environment under one kind of disturbance at several strengths, and the environment undisturbed (strength 0). It prints success at both
budgets, the gain, and the slope of the gain over the strength, and writes them to RUN/thinking_law.csv.

Legend: S strengths, K trainings, n episodes.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_file import slug
from ebt_policy.eval.rollout.episodes import read_parquet
from ebt_policy.eval.statistics.intervals import Interval, crossed_mean

_TASK = re.compile(r"^[a-z0-9_]+?(?:\+(?P<kind>[a-z]+)(?::(?P<strength>[\d.]+))?)?$")
"""A bench's folder of a task: an environment with at most one disturbance; no strength means 1."""


def strength(task: str) -> float:
    """0 for an undisturbed environment. Raises UserError for several disturbances."""
    found = _TASK.match(task)
    if found is None:
        raise UserError(
            f"{task!r} is no environment with at most one disturbance, such as pusht_keypoints+start:2."
        )
    return float(found["strength"] or 1) if found["kind"] else 0.0


def slope(strengths: NDArray[np.float64], gains: NDArray[np.float64]) -> Interval:
    """Least-squares slope of the mean gain over the strength. gains (S, K, n): the episodes of all strengths share their seeds, so the
    bootstrap draws the same trainings and seeds at every strength."""
    centred = strengths - strengths.mean()
    per_episode = np.einsum("s,skn->kn", centred, gains) / (centred**2).sum()
    return crossed_mean(per_episode)


def outcomes(task: Path, setting: str) -> NDArray[np.float64]:
    """Success (K, n) of a setting, such as EBT-8, in the folder of a task. Raises UserError where it has no episodes."""
    files = sorted(task.glob(f"rows/{slug(setting)}-seed*.parquet"))
    if not files:
        raise UserError(f"{task / 'rows'} has no episodes of {setting!r}. Run the bench to its end first.")
    return np.array([[episode.success for episode in read_parquet(file)[0]] for file in files], float)


def law(folder: Path, shorter: str, longer: str) -> list[tuple[str, ...]]:
    """Rows of the table: at each strength, success at both budgets and the gain with its interval, in points; last, the slope."""
    tasks = sorted((path.parent for path in folder.glob("*/rows")), key=lambda path: strength(path.name))
    if len(tasks) < 2:
        raise UserError(
            f"{folder} has the results of {len(tasks)} tasks; a slope needs two strengths or more."
        )
    strengths = np.array([strength(task.name) for task in tasks])
    short, long = (np.stack([outcomes(task, name) for task in tasks]) for name in (shorter, longer))
    rows: list[tuple[str, ...]] = [("strength", shorter, longer, "gain", "low", "high")]
    for at, one, other in zip(strengths, short, long, strict=True):
        gain = crossed_mean(other - one)
        rows.append((f"{at:g}", *_percent(one.mean(), other.mean(), gain.estimate, gain.low, gain.high)))
    found = slope(strengths, long - short)
    return [*rows, ("slope", "", "", *_percent(found.estimate, found.low, found.high))]


def _percent(*shares: float) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a bench's folder and write it there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the output of the bench")
    parser.add_argument("--shorter", default="EBT-1", help="the bench's name of the small budget")
    parser.add_argument("--longer", default="EBT-8", help="the bench's name of the large one")
    given = parser.parse_args(arguments)
    try:
        rows = law(given.folder, given.shorter, given.longer)
    except UserError as error:
        parser.error(str(error))
    with (given.folder / "thinking_law.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for row in rows:
        print("  ".join(f"{cell:>8}" for cell in row))


if __name__ == "__main__":
    main()
