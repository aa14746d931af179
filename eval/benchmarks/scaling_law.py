"""How the error of a policy falls with demonstrations, parameters and computing: log-log slopes of each method.

`python -m ebt_policy.eval.benchmarks.scaling_law RUN --held-out local/metaworld_mt10_held_out` reads the trainings of a bench
(bench_scaling), measures each on demonstrations that none was trained on, prints the tables and writes RUN/scaling.csv, one row a training, and
RUN/scaling_slopes.csv.

Legend: C cells (a method trained in one way), K trainings of each, n held-out episodes, R resamples.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.scaling_cells import BUDGETS, Cell, read_cells
from ebt_policy.eval.report.report import Table
from ebt_policy.eval.statistics.intervals import RESAMPLES, Interval, crossed_draws


@dataclass(frozen=True)
class Axis:
    """What grows, and what must be equal between cells that are compared."""

    name: str
    grows: Callable[[Cell], float]
    equal: Callable[[Cell], tuple[int, ...]]


AXES = (
    Axis("demonstrations", lambda c: c.demonstrations, lambda c: (c.parameters, c.steps)),
    Axis("parameters", lambda c: c.parameters, lambda c: (c.demonstrations, c.steps)),
    Axis("FLOPs", lambda c: c.flops, lambda c: (c.demonstrations,)),
)


def log_errors(
    cells: Sequence[Cell], budget: int, draws: tuple[NDArray[Any], NDArray[Any]]
) -> NDArray[np.float64]:
    """Natural logarithm of the root mean squared error, (C, 1 + R): of the data, then of every resample of trainings and episodes.

    All cells share the draws, so that a difference of slopes is paired.
    """
    rows, columns = draws
    found = []
    for cell in cells:
        squared = cell.squared[budget]
        means = ((rows @ squared) * columns).sum(1) / squared.size
        found.append(0.5 * np.log(np.concatenate([[squared.mean()], means])))
    return np.array(found)


def slope(axis: Axis, cells: Sequence[Cell], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares slope of the log error over the log of what grows, (1 + R,), with one offset for each group of cells that are equal
    in the rest. logs (C, 1 + R). Raises UserError where no two cells differ in what grows alone."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, cell in enumerate(cells):
        groups[axis.equal(cell)].append(i)
    x = np.log([axis.grows(cell) for cell in cells])
    centred = np.zeros_like(x)
    for members in groups.values():
        centred[members] = x[members] - x[members].mean()
    if not centred.any():
        raise UserError(f"No two trainings of {cells[0].method} differ in their {axis.name} alone.")
    return centred @ logs / (centred**2).sum()


@dataclass(frozen=True)
class Slope:
    """Of one method along one axis at one budget. more: this slope minus the reference's; None for the reference itself."""

    axis: str
    budget: int
    method: str
    slope: Interval
    more: Interval | None


def shared(cells: Sequence[Cell]) -> list[Cell]:
    """The cells whose demonstrations, width and steps every method has: slopes over different ranges cannot be compared."""
    places: dict[str, set[tuple[int, int, int]]] = defaultdict(set)
    for cell in cells:
        places[cell.method].add(cell.place)
    common = set.intersection(*places.values())
    return [cell for cell in cells if cell.place in common]


def slopes(cells: Sequence[Cell], reference: str) -> list[Slope]:
    """Along every axis that the cells have, over those that all methods have. Raises UserError for cells that cannot be compared."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    if reference not in methods:
        raise UserError(f"There is no training of '{reference}'; found {', '.join(methods)}.")
    cells = shared(cells)
    shapes = {errors.shape for cell in cells for errors in cell.squared.values()}
    if len(shapes) > 1:
        raise UserError(f"Trainings and episodes must be as many in every cell; found {sorted(shapes)}.")
    draws = crossed_draws(shapes.pop(), RESAMPLES)
    found = []
    for axis in AXES:
        for budget in BUDGETS:
            by_method = {}
            for method in methods:
                own = [cell for cell in cells if cell.method == method]
                by_method[method] = slope(axis, own, log_errors(own, budget, draws))
            for method, values in by_method.items():
                more = None if method == reference else _interval(values - by_method[reference])
                found.append(Slope(axis.name, budget, method, _interval(values), more))
    return found


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def error_table(cells: Sequence[Cell]) -> Table:
    """Root mean squared error of every cell, all its trainings together."""
    ordered = sorted(cells, key=lambda c: (c.method, c.demonstrations, c.parameters, c.steps))
    rows = tuple(
        (
            cell.method,
            str(cell.demonstrations),
            f"{cell.parameters / 1e6:.2f} M",
            f"{cell.steps:,}",
            *(f"{np.sqrt(cell.squared[budget].mean()):.4f}" for budget in BUDGETS),
        )
        for cell in ordered
    )
    columns = ("Method", "Demonstrations", "Parameters", "Steps", *(f"{b} evaluations" for b in BUDGETS))
    note = (
        "Root mean squared error of the executed actions on held-out demonstrations, in the dataset's units."
    )
    return Table(columns, rows, "Errors", (note,))


def slope_table(found: Sequence[Slope], reference: str) -> Table:
    """All slopes with their intervals."""
    rows = tuple(
        (
            f"{one.axis}, {one.budget} evaluations: {one.method}",
            _cell(one.slope),
            _cell(one.more) if one.more else "–",
        )
        for one in found
    )
    notes = (
        "Slope of the log error over the log of what grows; below zero it falls. 95 % intervals resample held-out episodes, and "
        "trainings where a cell has several.",
    )
    return Table(("", "Slope", f"More than {reference}"), rows, "Slopes", notes)


def _cell(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One row for each record, columns as in the first."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def _record(one: Slope) -> dict[str, Any]:
    ends = {"slope": one.slope, "more": one.more}
    numbers = {
        name + suffix: round(value, 4)
        for name, interval in ends.items()
        for suffix, value in (
            ("", interval.estimate if interval else np.nan),
            ("_low", interval.low if interval else np.nan),
            ("_high", interval.high if interval else np.nan),
        )
    }
    return {"axis": one.axis, "evaluations": one.budget, "method": one.method} | numbers


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the trainings of a bench, print the tables and write them to its folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the output of the bench")
    parser.add_argument("--held-out", required=True, help="repo id of demonstrations that no training saw")
    parser.add_argument("--reference", default="EBT", help="the method that others are compared with")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        cells, records = read_cells(given.folder, given.held_out, console)
        found = slopes(cells, given.reference)
    except UserError as error:
        parser.error(str(error))
    write_csv(given.folder / "scaling.csv", records)
    write_csv(given.folder / "scaling_slopes.csv", [_record(one) for one in found])
    if left := len(cells) - len(shared(cells)):
        console.print(
            f"{left} of {len(cells)} cells are in no slope: not every method has them.", highlight=False
        )
    for table in (error_table(cells), slope_table(found, given.reference)):
        console.print(table.rich(), *table.notes, sep="\n", highlight=False)


if __name__ == "__main__":
    main()
