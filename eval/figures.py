"""Figures of a report: energy traces as inline SVG, curves over budgets and training as plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ebt_policy.eval.episodes import Episode
from ebt_policy.eval.statistics import Interval
from ebt_policy.trace import StopReason, Trace

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Geometry of a trace in SVG units; about one CSS pixel each at the width that the page gives it.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 116, 36, 12, 8, 18

_TICKS = [m * 10**e for e in range(-2, 5) for m in (1, 2, 5)]  # of logarithmic axes

# Okabe and Ito's colours: told apart by colour-blind readers, and on light and dark alike.
PALETTE = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999")


@dataclass(frozen=True)
class EnergyScale:
    """A logarithmic axis in whole decades, shared by all traces of a page so that heights can be compared."""

    low: int  # exponents of ten
    high: int

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> EnergyScale | None:
        """The decades that hold every recorded energy; None when no policy has an energy."""
        energies = [trace.energy for episode in episodes for trace in episode.traces]
        flat = np.concatenate([e.ravel() for e in energies]) if energies else np.empty(0)
        flat = flat[np.isfinite(flat) & (flat > 0)]
        if not len(flat):
            return None
        low = math.floor(math.log10(flat.min()))
        return cls(low, max(math.ceil(math.log10(flat.max())), low + 1))

    def y(self, energy: float) -> float:
        exponent = math.log10(energy) if energy > 0 else self.low
        share = min(max((exponent - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), 1)

    @property
    def decades(self) -> list[tuple[float, str]]:
        """(y, label) of the grid lines, at most five."""
        step = math.ceil((self.high - self.low) / 4)
        return [(self.y(10.0**e), f"{10.0**e:g}") for e in range(self.low, self.high + 1, step)]


@dataclass(frozen=True)
class EnergyTrace:
    """What one episode's SVG draws; for each decision (x, width, y of first energy, y of final energy)."""

    decisions: list[tuple[float, float, float, float]]
    readouts: list[str]  # one line per decision
    scale: EnergyScale
    pixels_per_tick: float
    tick_marks: list[tuple[float, int]]


def energy_trace(episode: Episode, scale: EnergyScale | None, ticks: int) -> EnergyTrace | None:
    """Geometry of the trace on an axis of `ticks`; None for a policy without an energy."""
    if scale is None or not any(trace.steps for trace in episode.traces):
        return None
    per_tick = (WIDTH - LEFT - RIGHT) / ticks
    decisions, readouts = [], []
    for i, trace in enumerate(episode.traces):
        begin = i * episode.n_action_steps
        end = min(begin + episode.n_action_steps, episode.ticks)
        first, final = float(trace.energy[0, 0]), float(trace.final_energy[0])
        decisions.append(
            (
                round(LEFT + begin * per_tick, 1),
                round((end - begin) * per_tick, 1),
                scale.y(first),
                scale.y(final),
            )
        )
        readouts.append(_readout(begin, trace))
    step = next(s for s in (10, 20, 50, 100, 200, 500, 1000) if ticks / s <= 6)
    marks = [(round(LEFT + t * per_tick, 1), t) for t in range(0, ticks + 1, step)]
    return EnergyTrace(decisions, readouts, scale, per_tick, marks)


def _readout(tick: int, trace: Trace) -> str:
    energies = trace.energy[0][trace.accepted[0]]
    path = " → ".join(f"{e:.3g}" for e in energies)
    reason = StopReason(int(trace.stop_reason[0])).name.lower().replace("_", " ")
    return f"tick {tick} · energy {path} · {int(trace.evaluations[0])} evaluations · stop: {reason}"


@dataclass(frozen=True)
class Point:
    """One point of a curve: x, the rate with its interval, and what the hover text says."""

    x: float
    rate: Interval
    label: str


def curves(families: dict[str, list[Point]], x_title: str, log_x: bool = True) -> Figure:
    """Success with 95 % intervals against a cost; one line per family, points joined in order of x."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for (name, points), color in zip(families.items(), _cycle(len(families)), strict=True):
        points = sorted(points, key=lambda p: p.x)
        figure.add_scatter(
            x=[p.x for p in points],
            y=[p.rate.estimate for p in points],
            error_y={
                "array": [p.rate.high - p.rate.estimate for p in points],
                "arrayminus": [p.rate.estimate - p.rate.low for p in points],
                "thickness": 1,
                "width": 3,
            },
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 2},
            marker={"size": 8},
            text=[p.label for p in points],
            customdata=[[p.rate.low, p.rate.high] for p in points],
            hovertemplate=(
                "%{text}<br>%{y:.1%} [%{customdata[0]:.1%}, %{customdata[1]:.1%}] at %{x:.4g}<extra></extra>"
            ),
        )
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#808080"},
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        height=400,
        legend={"orientation": "h", "y": -0.2},
        xaxis={
            "title": x_title,
            **({"type": "log", "tickvals": _TICKS} if log_x else {}),
            "gridcolor": "rgba(128,128,128,.25)",
        },
        yaxis={
            "title": "success",
            "tickformat": ".0%",
            "range": [0, 1],
            "gridcolor": "rgba(128,128,128,.25)",
        },
    )
    return figure


def plotly_div(figure: Figure) -> str:
    """The figure as HTML; the page that holds it embeds `plotly_script` once."""
    import plotly.io

    return plotly.io.to_html(
        figure, include_plotlyjs=False, full_html=False, config={"displayModeBar": False, "responsive": True}
    )


def plotly_script() -> str:
    """plotly.js itself (5 MB), so that the page needs no network."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _cycle(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]
