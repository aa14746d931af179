"""The energy figure: its geometry says what the decisions were."""

from dataclasses import replace

import pytest
from timelines import decision, timeline

from ebt_policy.eval.report.energy_trace import HEIGHT, LEFT, RIGHT, TOP, WIDTH, EnergyScale, energy_trace


def episode(*energies: float | None):
    decisions = tuple(decision(i, old_plan_energy=e) for i, e in enumerate(energies))
    return timeline(decisions=decisions, ticks=8 * len(energies))


def test_a_trace_has_one_line_per_reading_and_higher_energy_is_higher_up():
    shown = episode(None, 0.02, 0.1, 0.2, 5.0)
    scale = EnergyScale.of([shown, episode(None)])
    assert scale == EnergyScale(-2, 1)
    drawn = energy_trace(shown, scale, ticks=40)
    assert drawn is not None and (len(drawn.decisions), len(drawn.readouts)) == (4, 5)
    assert drawn.readouts[0][1].startswith("tick 0 · no plan before it · 3 evaluations")
    assert drawn.readouts[2][0] == 16
    assert drawn.readouts[2][1].startswith("tick 16 · energy of the last plan 0.1 · 3 evaluations")
    heights = [y for *_, y in drawn.decisions]
    assert heights == sorted(heights, reverse=True)  # SVG's y grows downwards
    assert all(TOP <= y < HEIGHT for y in heights)
    x, width, _ = drawn.decisions[-1]
    assert x + width == pytest.approx(WIDTH - RIGHT, abs=0.2)


def test_energies_during_the_descent_are_not_drawn():
    """They are nearly all the noise that was drawn, so two episodes that differ in them alone look the same."""
    quiet = episode(None, 0.1, 0.2)
    noisy = replace(quiet, decisions=tuple(replace(d, energy=(90.0, 70.0)) for d in quiet.decisions))
    scale = EnergyScale.of([quiet])
    assert EnergyScale.of([noisy]) == scale
    drawn, other = (energy_trace(one, scale, ticks=24) for one in (quiet, noisy))
    assert drawn == other


def test_alarms_and_disturbances_are_where_they_were():
    shown = timeline(peak=0.95)  # an alarm at tick 24, a teleport on the ticks 20 to 23
    drawn = energy_trace(shown, EnergyScale.of([shown]), ticks=40)
    per_tick = (WIDTH - LEFT - RIGHT) / 40
    assert drawn is not None and drawn.alarms == [pytest.approx(LEFT + 24 * per_tick, abs=0.1)]
    assert drawn.disturbed == pytest.approx((LEFT + 20 * per_tick, 4 * per_tick), abs=0.2)
    undisturbed = energy_trace(replace(shown, disturbance_begin=None), EnergyScale(0, 1), ticks=40)
    assert undisturbed is not None and undisturbed.disturbed is None
    assert "ALARM" in drawn.readouts[3][1] and "ALARM" not in drawn.readouts[2][1]


def test_a_policy_without_energy_has_no_trace():
    plain = episode(None, None)
    assert EnergyScale.of([plain]) is None
    assert energy_trace(plain, EnergyScale(0, 1), ticks=16) is None
