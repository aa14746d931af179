"""The plot of the README: success on PushT against the wall-clock time of one decision.

python docs/tools/speed_plot.py            # reads docs/results/, writes docs/success_by_time.svg
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).parents[1]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 430, 62, 24, 54, 56
COLOURS = {
    "EBT": "#0072b2",
    "Flow": "#009e73",
    "Diffusion": "#d55e00",
    "Two-pass regression": "#cc79a7",
    "Regression": "#777777",
}
SUCCESS = re.compile(
    r"^\| (?P<name>[^|]+?) \| (?P<rate>[\d.]+)% \[(?P<low>[\d.]+), (?P<high>[\d.]+)\] \|", re.M
)
TIME = re.compile(r"^\| (?P<name>[^|]+?) \| (?P<milliseconds>[\d.]+) \| [\d.]+ \|$", re.M)


@dataclass(frozen=True)
class Point:
    """A row of both tables: percent of success with its interval, milliseconds of a decision."""

    name: str
    success: float
    low: float
    high: float
    milliseconds: float

    @property
    def method(self) -> str:
        if self.name.startswith(("DDPM", "DDIM")):
            return "Diffusion"
        return self.name.split("-")[0] if self.name.startswith(("EBT", "Flow")) else self.name.split(" (")[0]


def read_points() -> list[Point]:
    """The rows of docs/results/ that have both a success rate and a time. Raises ValueError when a table is not found."""
    success = {
        m["name"]: m
        for m in SUCCESS.finditer(_section("pusht_keypoints.md", "PushT keypoints, 500 episodes"))
    }
    times = {m["name"]: m for m in TIME.finditer(_section("speed.md", "Time of a decision"))}
    if set(times) - set(success) or not times:
        raise ValueError(f"No success rate in docs/results/ for {sorted(set(times) - set(success))}.")
    return [
        Point(name, float(s["rate"]), float(s["low"]), float(s["high"]), float(times[name]["milliseconds"]))
        for name, s in success.items()
        if name in times
    ]


def _section(page: str, title: str) -> str:
    text = (DOCS / "results" / page).read_text()
    sections = {part.split("\n", 1)[0]: part for part in re.split(r"^#+ ", text, flags=re.M)}
    if title not in sections:
        raise ValueError(f"docs/results/{page} has no section '{title}'.")
    return sections[title]


def draw(points: list[Point]) -> str:
    """The plot as SVG: logarithmic time, a line for each method, bars for 95 % intervals."""
    low_ms, high_ms = min(p.milliseconds for p in points) / 1.3, max(p.milliseconds for p in points) * 1.4

    def x(milliseconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(milliseconds / low_ms) / math.log(high_ms / low_ms)

    def y(percent: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (100 - percent) / 65

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        f'font-size="13">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="600">PushT: success against wall-clock time of one '
        "decision</text>",
        f'<text x="{LEFT}" y="39" fill="#555">demonstrations aligned with the goal; bars: 95 % intervals of 1,000 episodes '
        "(regression: 500)</text>",
    ]
    for percent in range(40, 101, 10):
        parts.append(f'<path d="M{LEFT} {y(percent):.1f}H{WIDTH - RIGHT}" stroke="#e3e3e3"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent} %</text>')
    for milliseconds in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000):
        if low_ms <= milliseconds <= high_ms:
            at = x(milliseconds)
            parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e3e3e3"/>')
            parts.append(
                f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{milliseconds}</text>'
            )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">milliseconds per decision, '
        "one CPU thread (numbers at the points: function evaluations)</text>"
    )
    for index, (method, colour) in enumerate(COLOURS.items()):
        row = sorted((p for p in points if p.method == method), key=lambda p: p.milliseconds)
        line = " ".join(f"{x(p.milliseconds):.1f},{y(p.success):.1f}" for p in row)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for p in row:
            at, evaluations = x(p.milliseconds), re.search(r"-(\d+)$", p.name)
            parts.append(
                f'<path d="M{at:.1f} {y(p.low):.1f}V{y(p.high):.1f}" stroke="{colour}"/>'
                f'<circle cx="{at:.1f}" cy="{y(p.success):.1f}" r="4.5" fill="{colour}"><title>{escape(p.name)}: '
                f"{p.success} % [{p.low}, {p.high}], {p.milliseconds} ms</title></circle>"
            )
            if evaluations:
                parts.append(
                    f'<text x="{at + 7:.1f}" y="{y(p.success) + 16:.1f}" fill="{colour}">{evaluations[1]}</text>'
                )
        parts.append(
            f'<circle cx="{WIDTH - 190}" cy="{HEIGHT - 170 + 20 * index}" r="4.5" fill="{colour}"/>'
            f'<text x="{WIDTH - 178}" y="{HEIGHT - 165 + 20 * index}">{escape(method)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    points = read_points()
    (DOCS / "success_by_time.svg").write_text(draw(points))
    print(f"{DOCS / 'success_by_time.svg'}: {len(points)} points")
