"""The energy figure: its geometry says what the decisions were."""

from dataclasses import replace

import pytest
from timelines import decision, timeline

from ebt_policy.eval.report.energy_trace import HEIGHT, LEFT, RIGHT, TOP, WIDTH, EnergyScale, energy_trace


def episode(*energies: tuple[float | None, ...]):
    decisions = tuple(decision(i, energy=e, evaluations=len(e)) for i, e in enumerate(energies))
    return timeline(decisions=decisions, ticks=8 * len(energies))


def test_a_trace_has_one_line_per_decision_and_higher_energy_is_higher_up():
    shown = episode((2.0, 0.02), (5.0, 0.1), (0.5, 0.2))
    scale = EnergyScale.of([shown, episode(())])
    assert scale == EnergyScale(-2, 1)
    drawn = energy_trace(shown, scale, ticks=24)
    assert drawn is not None and len(drawn.decisions) == len(drawn.readouts) == 3
    assert drawn.readouts[1][0] == 8
    assert drawn.readouts[1][1].startswith("tick 8 · energy 5 → 0.1 · 2 evaluations")
    finals = [final for *_, final in drawn.decisions]
    assert finals[0] > finals[1] > finals[2]  # SVG's y grows downwards
    assert all(TOP <= first < final < HEIGHT for _, _, first, final in drawn.decisions)
    x, width, *_ = drawn.decisions[-1]
    assert x + width == pytest.approx(WIDTH - RIGHT, abs=0.2)


def test_a_step_that_was_not_kept_is_not_told():
    drawn = energy_trace(episode((2.0, 3.0, 1.0)), EnergyScale(-1, 1), ticks=8)
    assert drawn is not None and "energy 2 → 1 ·" in drawn.readouts[0][1]
    drawn = energy_trace(episode((2.0, 3.0, 2.5)), EnergyScale(-1, 1), ticks=8)
    assert drawn is not None and "energy 2 ·" in drawn.readouts[0][1]


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
    plain = episode((), ())
    assert EnergyScale.of([plain]) is None
    assert energy_trace(plain, EnergyScale(0, 1), ticks=16) is None
