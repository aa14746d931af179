"""How a policy with adaptive stopping spends its evaluations, from the episodes that a bench stored.

    python -m ebt_policy.eval.benchmarks.inner_steps runs/bench_pusht/rows/ebt-2-seed*.parquet ...

Files that differ only in the training seed are pooled into one line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode, read_parquet
from ebt_policy.eval.statistics.intervals import wilson

COUNTS = (1, 2, 3, 4)  # evaluations; the last means "or more"
RESAMPLES = 2000


def counts(episodes: Sequence[Episode], taken: Callable[[Episode, int], bool]) -> np.ndarray:
    """Evaluations (N,) of all decisions i of each episode for which `taken(episode, i)` holds."""
    return np.array(
        [int(t.evaluations[0]) for e in episodes for i, t in enumerate(e.traces) if taken(e, i)], int
    )


def solved_per_thousand(episodes: Sequence[Episode], seed: int = 0) -> tuple[float, float, float]:
    """Solved episodes per 1,000 evaluations, with its 95 % bootstrap interval (low, high).

    Raises UserError without episodes; the interval of a single episode is (0, infinity).
    """
    if not episodes:
        raise UserError("Solved episodes per 1,000 evaluations need at least one episode, found none.")
    solved = np.array([e.success for e in episodes], float)
    spent = np.array([e.evaluations_per_decision * e.decisions for e in episodes])
    if len(episodes) == 1:
        return float(1e3 * solved[0] / spent[0]), 0.0, float("inf")
    draws = np.random.default_rng(seed).integers(len(solved), size=(RESAMPLES, len(solved)))
    low, high = np.quantile(1e3 * solved[draws].sum(1) / spent[draws].sum(1), [0.025, 0.975])
    return float(1e3 * solved.sum() / spent.sum()), float(low), float(high)


def table(files: Sequence[Path]) -> str:
    """Both tables as Markdown. Raises UserError for a file without episodes."""
    rows: dict[str, list[Episode]] = {}
    for file in files:
        rows.setdefault(re.sub(r"-seed\d+$", "", file.stem), []).extend(read_parquet(file)[0])
    lines = ["| policy | episodes | success | evaluations a decision | solved for 1,000 evaluations |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, episodes in rows.items():
        wins = sum(e.success for e in episodes)
        low, high = wilson(wins, len(episodes))
        mean = counts(episodes, lambda *_: True).mean()
        rate, least, most = solved_per_thousand(episodes)
        lines.append(
            f"| {name} | {len(episodes)} | {wins / len(episodes):.1%} [{100 * low:.1f}, {100 * high:.1f}] "
            f"| {mean:.2f} | {rate:.1f} [{least:.1f}, {most:.1f}] |"
        )
    shares = " | ".join(f"{n} or more" if n == COUNTS[-1] else str(n) for n in COUNTS)
    for name, episodes in rows.items():
        if len(set(counts(episodes, lambda *_: True))) == 1:
            continue  # a fixed budget
        lines += ["", f"| {name}: evaluations | {shares} | mean | decisions |"]
        lines.append("|---|" + "---:|" * (len(COUNTS) + 2))
        for moment, taken in MOMENTS.items():
            found = counts(episodes, taken)
            if not len(found):
                continue
            parts = [(np.minimum(found, COUNTS[-1]) == n).mean() for n in COUNTS]
            cells = " | ".join(f"{part:.1%}" for part in parts)
            lines.append(f"| {moment} | {cells} | {found.mean():.2f} | {len(found):,} |")
    return "\n".join(lines)


MOMENTS: dict[str, Callable[[Episode, int], bool]] = {
    "all decisions": lambda *_: True,
    "the first of an episode, without a plan": lambda _, i: i == 0,
    "later ones of solved episodes": lambda e, i: e.success and i > 0,
    "later ones of episodes that fail": lambda e, i: not e.success and i > 0,
    "the last three of solved episodes": lambda e, i: e.success and i >= max(1, e.decisions - 3),
}


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]]
    if not files:
        raise SystemExit(__doc__)
    try:
        print(table(files))
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
