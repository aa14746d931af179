"""The plot of docs/scaling.md: error on held-out demonstrations over demonstrations, parameters and FLOPs, both axes logarithmic.

python docs/tools/scaling_plot.py            # reads docs/scaling.csv (written by the module scaling_law), writes docs/scaling.svg
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ebt_policy.eval.benchmarks.training_cost import flops

DOCS = Path(__file__).parents[1]
PANEL, HEIGHT, LEFT, GAP, TOP, BOTTOM = 230, 330, 58, 34, 46, 84
COLOURS = {"EBT": "#0072b2", "flow": "#009e73", "diffusion": "#d55e00", "two_pass": "#cc79a7"}
NAMES = {
    "EBT": "EBT",
    "flow": "Flow matching",
    "diffusion": "Diffusion (DDIM)",
    "two_pass": "Two-pass regression",
}
BUDGETS = {2: "", 10: "5 4"}  # evaluations -> dashes of the line


@dataclass(frozen=True)
class Training:
    """A row of scaling.csv."""

    method: str
    demonstrations: int
    width: int
    parameters: int
    steps: int
    samples: int
    errors: Mapping[int, float]

    @property
    def flops(self) -> float:
        return flops(self.parameters, self.samples)


@dataclass(frozen=True)
class Panel:
    """What grows, and which of the trainings differ in it alone (for FLOPs: in parameters or steps)."""

    title: str
    grows: Callable[[Training], float]
    equal: Callable[[Training], tuple[int, ...]]


PANELS = (
    Panel("demonstrations of ten tasks", lambda t: t.demonstrations, lambda t: (t.width, t.steps)),
    Panel("parameters", lambda t: t.parameters, lambda t: (t.demonstrations, t.steps)),
    Panel("FLOPs of training", lambda t: t.flops, lambda t: (t.demonstrations,)),
)


def read_trainings(path: Path) -> list[Training]:
    """The rows of the table. Raises KeyError where a column is missing."""
    with path.open(newline="") as file:
        return [
            Training(
                row["method"],
                *(int(row[name]) for name in ("demonstrations", "width", "parameters", "steps", "samples")),
                {budget: float(row[f"error_{budget}"]) for budget in BUDGETS},
            )
            for row in csv.DictReader(file)
        ]


def lines(panel: Panel, trainings: Iterable[Training], budget: int) -> dict[str, list[tuple[float, float]]]:
    """Method -> points (what grows, mean error of the trainings there), ordered, of the largest group that is equal in the rest."""
    groups: dict[tuple[int, ...], list[Training]] = defaultdict(list)
    for one in trainings:
        groups[panel.equal(one)].append(one)
    largest = max(groups.values(), key=lambda g: len({panel.grows(one) for one in g}))
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in largest:
        found[one.method][panel.grows(one)].append(one.errors[budget])
    return {method: sorted((x, sum(e) / len(e)) for x, e in at.items()) for method, at in found.items()}


def draw(trainings: Sequence[Training]) -> str:
    """The three panels as SVG; full lines two evaluations, broken ones ten."""
    errors = [e for one in trainings for e in one.errors.values()]
    low, high = min(errors) / 1.15, max(errors) * 1.15

    def y(error: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (math.log(high / error) / math.log(high / low))

    width = LEFT + len(PANELS) * PANEL + (len(PANELS) - 1) * GAP + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="#808080">',
        f'<text x="{LEFT}" y="20" font-size="14">Error of the executed actions on held-out demonstrations (MT10)</text>',
    ]
    for index, panel in enumerate(PANELS):
        begin = LEFT + index * (PANEL + GAP)
        parts += _panel(panel, trainings, begin, y, (low, high), labels=index == 0)
    parts += _legend([m for m in NAMES if any(one.method == m for one in trainings)])
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    panel: Panel,
    trainings: Sequence[Training],
    begin: float,
    y: Callable[[float], float],
    ends: tuple[float, float],
    labels: bool,
) -> list[str]:
    found = {budget: lines(panel, trainings, budget) for budget in BUDGETS}
    every = sorted({x for of in found.values() for points in of.values() for x, _ in points})
    first, last = math.log(every[0] / 1.2), math.log(every[-1] * 1.2)

    def x(value: float) -> float:
        return begin + PANEL * (math.log(value) - first) / (last - first)

    bottom = HEIGHT - BOTTOM
    parts = [f'<text x="{begin + PANEL / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{panel.title}</text>']
    for mark in _marks(*ends):
        parts.append(f'<path d="M{begin} {y(mark):.1f}h{PANEL}" stroke="#808080" stroke-opacity=".25"/>')
        if labels:
            parts.append(f'<text x="{begin - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for mark in _marks(math.exp(first), math.exp(last)):
        parts.append(f'<path d="M{x(mark):.1f} {bottom}v5" stroke="#808080"/>')
        parts.append(f'<text x="{x(mark):.1f}" y="{bottom + 17}" text-anchor="middle">{_short(mark)}</text>')
    for budget, of in found.items():
        for method, points in of.items():
            d = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
            dashes = f' stroke-dasharray="{BUDGETS[budget]}"' if BUDGETS[budget] else ""
            parts.append(f'<path d="{d}" fill="none" stroke="{COLOURS[method]}" stroke-width="2"{dashes}/>')
            for a, b in points:
                tip = escape(f"{NAMES[method]}, {budget} evaluations: {b:.4f} at {a:.3g}")
                parts.append(
                    f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{COLOURS[method]}"><title>{tip}</title></circle>'
                )
    return parts


def _legend(methods: Sequence[str]) -> list[str]:
    parts, at = [], LEFT
    for method in methods:
        parts.append(f'<circle cx="{at}" cy="{HEIGHT - 18}" r="4.5" fill="{COLOURS[method]}"/>')
        parts.append(f'<text x="{at + 10}" y="{HEIGHT - 14}">{NAMES[method]}</text>')
        at += 34 + 7 * len(NAMES[method])
    parts.append(f'<text x="{at + 10}" y="{HEIGHT - 14}">full: two evaluations, broken: ten</text>')
    return parts


def _marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the ends; over more than two decades powers of ten alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    return [float(f"{m}e{e}") for e in decades for m in steps if low <= float(f"{m}e{e}") <= high]


def _short(value: float) -> str:
    for size, unit in ((1e15, "e15"), (1e12, "e12"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


if __name__ == "__main__":
    (DOCS / "scaling.svg").write_text(draw(read_trainings(DOCS / "scaling.csv")))
    print(DOCS / "scaling.svg")
