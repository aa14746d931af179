"""The energy of the last plan over an episode as inline SVG, with the same axis for all episodes of a page.

It is the reading without added noise (`Trace.old_plan_energy`). Energies during the descent are nearly all the noise drawn, and not shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebt_policy.eval.report.trace_page import stop_words
from ebt_policy.eval.rollout.timeline import Timeline, TimelineDecision

# Geometry in SVG units, about one CSS pixel each.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 116, 36, 12, 8, 18


@dataclass(frozen=True)
class EnergyScale:
    """A logarithmic axis in whole decades, the same for all traces of a page."""

    low: int  # exponents of ten
    high: int

    @classmethod
    def of(cls, episodes: Sequence[Timeline]) -> EnergyScale | None:
        """The decades that contain all recorded energies; None if there are none."""
        energies = [
            e for t in episodes for d in t.decisions if (e := d.old_plan_energy) is not None and e > 0
        ]
        if not energies:
            return None
        low = math.floor(math.log10(min(energies)))
        return cls(low, max(math.ceil(math.log10(max(energies))), low + 1))

    def y(self, energy: float) -> float:
        """Height of an energy in SVG units."""
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
    """The geometry of one SVG. decisions: (x, width, y) of each decision that has the reading: the first of an episode has none."""

    decisions: list[tuple[float, float, float]]
    readouts: list[tuple[int, str]]  # first tick and text of each decision
    scale: EnergyScale
    pixels_per_tick: float
    tick_marks: list[tuple[float, int]]
    alarms: list[float]  # x
    disturbed: tuple[float, float] | None  # x, width
    driven: tuple[float, float] | None  # x, width: by an operator


def energy_trace(episode: Timeline, scale: EnergyScale | None, ticks: int) -> EnergyTrace | None:
    """Geometry of the trace on an axis of `ticks`; None for a policy without the reading."""
    if scale is None or not any(d.old_plan_energy is not None for d in episode.decisions):
        return None
    per_tick = (WIDTH - LEFT - RIGHT) / ticks

    def x(tick: int) -> float:
        return round(LEFT + tick * per_tick, 1)

    decisions = []
    driven = episode.operator_begin
    ends = [*(d.tick for d in episode.decisions[1:]), episode.ticks if driven is None else driven]
    for decision, next_tick in zip(episode.decisions, ends, strict=True):
        if decision.old_plan_energy is not None:
            width = max(round((next_tick - decision.tick) * per_tick, 1), 1.0)
            decisions.append((x(decision.tick), width, scale.y(decision.old_plan_energy)))
    step = next(s for s in (10, 20, 50, 100, 200, 500, 1000) if ticks / s <= 6)
    begin, end = episode.disturbance_begin, episode.disturbance_end
    return EnergyTrace(
        decisions,
        [(d.tick, _readout(d)) for d in episode.decisions],
        scale,
        per_tick,
        [(x(t), t) for t in range(0, ticks + 1, step)],
        [x(d.tick) for d in episode.decisions if d.alarm],
        None if begin is None or end is None else (x(begin), max(x(min(end, ticks)) - x(begin), 2.0)),
        None if driven is None else (x(driven), max(x(episode.ticks) - x(driven), 2.0)),
    )


def _readout(decision: TimelineDecision) -> str:
    found = decision.old_plan_energy
    energy = "no plan before it" if found is None else f"energy of the last plan {found:.3g}"
    recovery = f" · {decision.recovery}" if decision.recovery else ""
    reason = stop_words(decision.stop_reason)
    alarm = "ALARM · " if decision.alarm else ""
    return f"{alarm}tick {decision.tick} · {energy} · {decision.evaluations} evaluations · {reason}{recovery}"
