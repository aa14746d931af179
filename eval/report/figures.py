"""Figures of a report, by plotly: success over budget, time or training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebt_policy.eval.statistics.intervals import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TICKS = [m * 10**e for e in range(-2, 5) for m in (1, 2, 5)]  # ticks of logarithmic axes

# The colours of Okabe and Ito, for colour-blind readers and both light and dark pages.
PALETTE = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999")


@dataclass(frozen=True)
class Point:
    """One point of a curve. label: its hover text."""

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
    """The figure as HTML; the page has to contain `plotly_script` once."""
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
