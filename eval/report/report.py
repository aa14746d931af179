"""The results of a comparison with their uncertainty, as one table for terminal, Markdown and HTML.

Numbers are formatted once, here, so that the three outputs agree.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.statistics.intervals import (
    Interval,
    PairedTest,
    crossed_mean,
    mcnemar,
    paired_success_difference,
    success_rate,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

LATENCY_NOTE = (
    "Latency is the wall clock of one decision (observation to action chunk) at batch 1 on one CPU thread, "
    "after warm-up, without monitoring."
)
SUCCESS_INTERVALS = "Success intervals are 95 %, Wilson's for one training."
SUCCESS_NOTE = SUCCESS_INTERVALS + " An episode is solved when {}."
RESAMPLED_NOTE = "Intervals of several training seeds resample these as well as episodes; with two or three they are still too narrow."
SHARED = "over the training seeds that both have"


@dataclass(frozen=True)
class Result:
    """A policy with one setting: its episodes by training seed, all on the same environment seeds.

    family: name of its curve in figures (one policy with several budgets). latency_ms: (p50, p95).
    """

    name: str
    family: str
    episodes: Mapping[int, Sequence[Episode]]
    latency_ms: tuple[float, float] | None = None

    def matrix(self, field_name: str, training_seeds: Sequence[int] | None = None) -> np.ndarray:
        """(K, n) values of an Episode field: K training seeds by n environment seeds, both ascending."""
        seeds = sorted(self.episodes) if training_seeds is None else training_seeds
        rows = [sorted(self.episodes[k], key=lambda e: e.seed) for k in seeds]
        return np.array([[getattr(e, field_name) for e in row] for row in rows], float)

    @property
    def environment_seeds(self) -> list[int]:
        return sorted(e.seed for e in next(iter(self.episodes.values())))

    @property
    def success(self) -> Interval:
        """Success rate over all episodes; with several trainings its interval resamples these too."""
        return success_rate(self.matrix("success"))

    def mean(self, field_name: str) -> float:
        return float(self.matrix(field_name).mean())


@dataclass(frozen=True)
class Comparison:
    """A paired comparison on the same seeds. Differences are result minus reference."""

    success: Interval
    max_coverage: Interval
    tests: tuple[PairedTest, ...]  # one per training seed that both have


def compare(result: Result, reference: Result) -> Comparison:
    """Compare paired by environment seed and training seed.

    One shared training seed: Newcombe's interval for pairs. Several: a bootstrap that resamples training seeds and environment
    seeds. Raises UserError if the two were not evaluated on the same seeds.
    """
    shared = sorted(result.episodes.keys() & reference.episodes.keys())
    if not shared or result.environment_seeds != reference.environment_seeds:
        raise UserError(
            f"'{result.name}' and '{reference.name}' cannot be paired: expected the same environment seeds "
            f"and a shared training seed, found {len(result.environment_seeds)} and "
            f"{len(reference.environment_seeds)} episodes, training seeds "
            f"{sorted(result.episodes)} and {sorted(reference.episodes)}."
        )
    ours, theirs = (r.matrix("success", shared) for r in (result, reference))
    if len(shared) == 1:
        success = paired_success_difference(ours[0] > 0, theirs[0] > 0)
    else:
        success = crossed_mean(ours - theirs)
    ours_covered, theirs_covered = (r.matrix("max_coverage", shared) for r in (result, reference))
    return Comparison(
        success=success,
        max_coverage=crossed_mean(ours_covered - theirs_covered),
        tests=tuple(mcnemar(a > 0, b > 0) for a, b in zip(ours, theirs, strict=True)),
    )


@dataclass(frozen=True)
class Table:
    """A table of formatted text. The first column holds names, the others figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = field(default=())

    def markdown(self) -> str:
        """Title, table and notes as Markdown."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = ["---"] + ["---:"] * (len(self.columns) - 1)
        table = "\n".join([line(self.columns), line(rule), *map(line, self.rows)])
        heading = f"## {self.title}\n\n" if self.title else ""
        return heading + table + "".join(f"\n\n{note}" for note in self.notes) + "\n"

    def rich(self, width: int = 300) -> RichTable:
        """For a terminal of `width` columns: below 100, intervals stand under their figures. Cells are plain text:
        brackets are intervals, not mark-up.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self.title or None, title_justify="left", box=box.SIMPLE_HEAD)
        for i, column in enumerate(self.columns):
            # Names may break between words, figures only before an interval.
            header = Text("\n".join(textwrap.wrap(column, 9, break_long_words=False)))
            table.add_column(
                header,
                justify="right" if i else "left",
                vertical="bottom" if i else "top",
                no_wrap=i > 0,
                min_width=None if i else 11,
            )
        for name, *figures in self.rows:
            shown = [figure.replace(" [", "\n[") if width < 100 else figure for figure in figures]
            table.add_row(*map(Text, (name, *shown)))
        return table


def comparison_table(
    results: Sequence[Result], solved_when: str, reference: str | None = None, title: str = ""
) -> Table:
    """One row per result; with `reference` (a result's name) also the paired difference from it."""
    columns = ["Policy", "Success", "n", "Max coverage", "Evaluations", "Latency p50 / p95, ms"]
    notes = [
        SUCCESS_NOTE.format(solved_when),
        "Evaluations are forward passes of the trunk per decision. " + LATENCY_NOTE,
    ]
    base = None
    if reference is not None:
        base = find(results, reference)
        columns += [f"Success minus {reference}", "McNemar p", "Coverage difference"]
        notes.append(
            f"Differences are against {reference} on the same seeds, paired, with 95 % intervals; McNemar's "
            "test is exact, one p per training seed."
        )
        if any(r.episodes.keys() != base.episodes.keys() for r in results):
            notes.append(f"Differences from a row with other training seeds are {SHARED}.")
    if resampled(results):
        notes.append(f"n is training seeds × episodes. {RESAMPLED_NOTE}")
    rows = [(*_cells(r), *(_paired_cells(r, base) if base else ())) for r in results]
    return Table(tuple(columns), tuple(rows), title, tuple(notes))


def resampled(results: Sequence[Result]) -> bool:
    """Whether the interval of some result resamples trainings."""
    return any(len(result.episodes) > 1 for result in results)


def verdict(difference: Interval) -> str:
    """higher, lower, or not told apart, by the interval of a difference."""
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "not told apart"


def verdicts(results: Sequence[Result], reference: str) -> list[str]:
    """Sentences that list all results above, below and not told apart from the reference."""
    base = find(results, reference)
    comparisons = [(result, compare(result, base)) for result in results if result is not base]
    said = []
    for title, name, show in (("Success", "success", points), ("Maximum coverage", "max_coverage", signed)):
        groups: dict[str, list[str]] = {"higher": [], "lower": [], "not told apart": []}
        for result, comparison in comparisons:
            difference = getattr(comparison, name)
            shared = "" if result.episodes.keys() == base.episodes.keys() else f", {SHARED}"
            groups[verdict(difference)].append(f"{result.name} ({show(difference)}{shared})")
        said += [f"{title} {group}: {', '.join(names)}." for group, names in groups.items() if names]
    return said


def find(results: Sequence[Result], name: str) -> Result:
    """The result with that name. Raises UserError with all names if there is none."""
    for result in results:
        if result.name == name:
            return result
    raise UserError(f"There is no row '{name}' to compare with. Rows: {', '.join(r.name for r in results)}.")


def percent(interval: Interval) -> str:
    """A rate in percent with its interval."""
    return f"{interval.estimate:.1%} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def points(interval: Interval) -> str:
    """A difference of rates in percentage points with its interval."""
    estimate, low, high = (100 * v for v in (interval.estimate, interval.low, interval.high))
    return f"{estimate:+.1f} points {_ends(f'{low:+.1f}', f'{high:+.1f}')}"


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    return f"{interval.estimate:+.3f} {_ends(f'{interval.low:+.3f}', f'{interval.high:+.3f}')}"


def _ends(low: str, high: str) -> str:
    """The ends of an interval; said in words where the data have no spread, as with one episode."""
    return "[one episode: no interval]" if "inf" in low or "inf" in high else f"[{low}, {high}]"


def number(result: Result) -> str:
    """n: trainings times episodes, or the episodes of one training."""
    seeds, episodes = result.matrix("success").shape
    return f"{seeds} × {episodes}" if seeds > 1 else str(episodes)


def milliseconds(value: float) -> str:
    """With one decimal below 100."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _cells(result: Result) -> tuple[str, ...]:
    return (
        result.name,
        percent(result.success),
        number(result),
        f"{result.mean('max_coverage'):.3f}",
        f"{result.mean('evaluations_per_decision'):.2f}",
        " / ".join(map(milliseconds, result.latency_ms)) if result.latency_ms else "–",
    )


def _paired_cells(result: Result, base: Result) -> tuple[str, ...]:
    if result is base:
        return ("reference", "", "")
    comparison = compare(result, base)
    p_values = ", ".join("<.001" if t.p_value < 0.001 else f"{t.p_value:.3f}" for t in comparison.tests)
    return points(comparison.success), p_values, signed(comparison.max_coverage)
