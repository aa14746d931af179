"""How a policy with adaptive stopping spends its evaluations, from the episodes that a bench stored.

    python -m ebt_policy.eval.benchmarks.inner_steps runs/bench_pusht/rows/ebt-2-seed*.parquet ...

Files that differ only in the training seed are one line, with intervals that resample trainings as well as episodes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.eval.report.report import Result, number, percent
from ebt_policy.eval.rollout.episodes import Episode, read_parquet
from ebt_policy.eval.statistics.intervals import RESAMPLES, crossed_draws

COUNTS = (1, 2, 3, 4)  # evaluations; the last means "or more"


def counts(episodes: Sequence[Episode], taken: Callable[[Episode, int], bool]) -> np.ndarray:
    """Evaluations (N,) of all decisions i of each episode for which `taken(episode, i)` holds."""
    return np.array(
        [int(t.evaluations[0]) for e in episodes for i, t in enumerate(e.traces) if taken(e, i)], int
    )


def solved_per_thousand(result: Result, seed: int = 0) -> tuple[float, float, float]:
    """Solved episodes per 1,000 evaluations, with its 95 % interval (low, high): a bootstrap over trainings and episodes.

    The interval of a single episode is (0, infinity).
    """
    solved = result.matrix("success")
    spent = result.matrix("evaluations_per_decision") * result.matrix("decisions")
    rate = float(1e3 * solved.sum() / spent.sum())
    if solved.shape[1] == 1:
        return rate, 0.0, float("inf")
    trainings, episodes = crossed_draws(solved.shape, RESAMPLES, seed)
    won, used = (((trainings @ values) * episodes).sum(1) for values in (solved, spent))
    low, high = np.quantile(1e3 * won / used, [0.025, 0.975])
    return rate, float(low), float(high)


def table(files: Sequence[Path]) -> str:
    """Both tables as Markdown. Raises UserError for a file without episodes, and for trainings that ran other episodes."""
    results = _read(files)
    lines = ["| policy | episodes | success | evaluations a decision | solved for 1,000 evaluations |"]
    lines.append("|---|---:|---:|---:|---:|")
    for result in results:
        mean = counts(pooled(result), lambda *_: True).mean()
        rate, least, most = solved_per_thousand(result)
        lines.append(
            f"| {result.name} | {number(result)} | {percent(result.success)} | {mean:.2f} "
            f"| {rate:.1f} [{least:.1f}, {most:.1f}] |"
        )
    shares = " | ".join(f"{n} or more" if n == COUNTS[-1] else str(n) for n in COUNTS)
    for result in results:
        episodes = pooled(result)
        if len(set(counts(episodes, lambda *_: True))) == 1:
            continue  # a fixed budget
        lines += ["", f"| {result.name}: evaluations | {shares} | mean | decisions |"]
        lines.append("|---|" + "---:|" * (len(COUNTS) + 2))
        for moment, taken in MOMENTS.items():
            found = counts(episodes, taken)
            if not len(found):
                continue
            parts = [(np.minimum(found, COUNTS[-1]) == n).mean() for n in COUNTS]
            cells = " | ".join(f"{part:.1%}" for part in parts)
            lines.append(f"| {moment} | {cells} | {found.mean():.2f} | {len(found):,} |")
    return "\n".join(lines)


def _read(files: Sequence[Path]) -> list[Result]:
    found: dict[str, dict[int, list[Episode]]] = {}
    for i, file in enumerate(files):
        name, _, seed = file.stem.rpartition("-seed")
        if not (name and seed.isdigit()):
            name, seed = file.stem, str(i)
        episodes = read_parquet(file)[0]
        if not episodes:
            raise UserError(f"{file} holds no episode.")
        if int(seed) in found.setdefault(name, {}):
            raise UserError(f"Two files are of '{name}', training seed {seed}; the second is {file}.")
        found[name][int(seed)] = episodes
    for name, trainings in found.items():
        if len({tuple(sorted(e.seed for e in episodes)) for episodes in trainings.values()}) > 1:
            raise UserError(f"The trainings of '{name}' did not play the same episodes: the seeds differ.")
    return [Result(name, name, trainings) for name, trainings in found.items()]


def pooled(result: Result) -> list[Episode]:
    """The episodes of all trainings."""
    return [episode for episodes in result.episodes.values() for episode in episodes]


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
