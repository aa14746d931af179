"""The overview of a bench of several tasks: the success of every policy on each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ebt_policy.eval.benchmarks.bench_config import Suite
from ebt_policy.eval.benchmarks.bench_report import write_pages
from ebt_policy.eval.report.report import (
    RESAMPLED_NOTE,
    SHARED,
    SUCCESS_INTERVALS,
    Result,
    Table,
    compare,
    find,
    percent,
    points,
    resampled,
    verdicts,
)
from ebt_policy.provenance import run_record

PAIRED_NOTE = "Paired on the same seeds, with 95 % intervals. Each task has policies of its own."


def write_overview(output: Path, suite: Suite, results: Mapping[str, Sequence[Result]]) -> Path:
    """Write report.md and report.html from results by environment; returns the path of the latter."""
    reference = suite.benches[0].reference
    title = f"{suite.name}: {len(results)} tasks, {suite.benches[0].episodes} episodes each"
    success, difference = success_table(results), difference_table(results, reference)
    compared = [f"{env}: {line}" for env, those in results.items() for line in verdicts(those, reference)]
    record = run_record()
    details = {
        "Of each task": ", ".join(f"{env}/report.html" for env in results),
        "Command": record["command"],
        "Commit": record["git"] or "not a checkout",
    }
    return write_pages(output, title, details, success, compared, reference, [difference])


def success_table(results: Mapping[str, Sequence[Result]]) -> Table:
    """Settings by environments, success with its interval."""
    first = next(iter(results.values()))
    rows = tuple(
        (setting.name, *(percent(find(those, setting.name).success) for those in results.values()))
        for setting in first
    )
    several = any(resampled(those) for those in results.values())
    notes = (SUCCESS_INTERVALS, *([RESAMPLED_NOTE] if several else []))
    return Table(("Policy", *results), rows, "Success", notes)


def difference_table(results: Mapping[str, Sequence[Result]], reference: str) -> Table:
    """Settings by environments, success minus that of the reference on the same seeds."""

    def cell(those: Sequence[Result], name: str) -> str:
        if name == reference:
            return "reference"
        return points(compare(find(those, name), find(those, reference)).success)

    first = next(iter(results.values()))
    rows = tuple(
        (setting.name, *(cell(those, setting.name) for those in results.values())) for setting in first
    )
    other = any(
        one.episodes.keys() != find(those, reference).episodes.keys()
        for those in results.values()
        for one in those
    )
    notes = (
        PAIRED_NOTE,
        *([f"Differences from a row with other training seeds are {SHARED}."] if other else []),
    )
    return Table(("Policy", *results), rows, f"Success minus {reference}", notes)
