"""Signals rise with what they are named after; the score accumulates evidence and forgets it."""

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.model.trace import Trace
from ebt_policy.monitoring.signals import (
    SIGNALS,
    RunningScore,
    Statistic,
    decision_signals,
    fit_statistic,
    rows,
)


def trace(energies) -> Trace:
    energy = np.array(energies, np.float32)
    batch = len(energy)
    return Trace(
        energy=energy,
        residual_rms=np.sqrt(energy),
        step_size=np.ones_like(energy),
        evaluations=(~np.isnan(energy)).sum(1),
        stop_reason=np.zeros(batch, np.int8),
    )


def test_each_signal_has_one_value_for_each_sample():
    chunk = np.random.default_rng(0).normal(size=(3, 16, 2)).astype(np.float32)
    found = decision_signals(trace([[4.0, 1.0], [4.0, np.nan], [2.0, 2.0]]), chunk, 8, chunk, chunk[:, 0])
    assert found.keys() <= SIGNALS.keys()
    assert all(values.shape == (3,) for values in found.values())
    assert found["energy"].tolist() == [1, 4, 2]
    assert found["energy_drop"].tolist() == [3, 0, 0]
    assert found["residual"].tolist() == pytest.approx([1, 2, 2**0.5])
    assert found["overlap"].tolist() == [0, 0, 0]
    assert np.isnan(found["old_plan"]).all()
    assert len(rows(found)) == 3 and rows(found)[1]["energy"] == 4


def test_signals_measure_what_they_say():
    smooth = np.tile(np.linspace(0, 1, 16, dtype=np.float32)[:, None], (1, 1, 2))
    jerky = smooth.copy()
    jerky[0, 3] += 0.5
    one = decision_signals(trace([[1.0]]), smooth, 8, smooth, np.full((1, 2), 0.1))
    two = decision_signals(trace([[1.0]]), jerky, 8, smooth, np.zeros((1, 2)))
    for name in ("overlap", "acceleration", "stillness"):
        assert two[name][0] > one[name][0]
    # What lies beyond the previous chunk's end was never planned: it cannot disagree.
    beyond = smooth.copy()
    beyond[0, 9:] = 7
    assert decision_signals(trace([[1.0]]), beyond, 8, smooth)["overlap"][0] == 0


def test_a_policy_without_an_energy_lacks_its_signals():
    found = decision_signals(Trace.without_steps(2, 10), np.zeros((2, 16, 2), np.float32), 8)
    assert np.isnan(found["energy"]).all() and np.isnan(found["residual"]).all()
    assert found["evaluations"].tolist() == [10, 10]
    with pytest.raises(UserError, match="No decision has the signal 'energy'"):
        fit_statistic([rows(found)], ["energy"])


def test_a_broken_signal_is_not_a_missing_one():
    """NaN energy, NaN plan: infinite. No previous chunk, no energy at all: missing."""
    chunk = np.zeros((3, 16, 2), np.float32)
    chunk[1] = np.nan
    previous = np.zeros_like(chunk)
    previous[2] = np.nan
    found = rows(decision_signals(trace([[4.0], [np.nan], [1.0]]), chunk, 8, previous))
    assert [one["energy"] for one in found] == [4, np.inf, 1]
    assert [one["acceleration"] for one in found] == [0, np.inf, 0]
    assert [one.get("overlap") for one in found] == [0, np.inf, None]
    assert "transition" not in found[0] and "stillness" not in found[0]


def test_the_score_rises_with_evidence_and_forgets_it():
    score = RunningScore(Statistic(("energy",), (0.0,), (1.0,)))
    rise = [score.update({"energy": np.e}) for _ in range(5)]
    assert rise == pytest.approx([1, 2, 3, 4, 5])
    assert score.update({}) == pytest.approx(5)  # a missing signal says nothing
    fall = [score.update({"energy": np.exp(-2)}) for _ in range(4)]
    assert fall == pytest.approx([3, 1, 0, 0])


def test_the_windowed_score_is_a_mean():
    statistic = Statistic(("energy",), (0.0,), (1.0,), window=2)
    assert statistic.running([{"energy": np.exp(v)} for v in (1, 3, 5)]).tolist() == pytest.approx([1, 2, 4])


def test_standardising_makes_units_irrelevant():
    rng = np.random.default_rng(0)
    episodes = [[{"energy": v, "overlap": 1 / v} for v in rng.lognormal(size=20)] for _ in range(5)]
    scaled = [[{"energy": 1000 * d["energy"], "overlap": d["overlap"]} for d in e] for e in episodes]
    a, b = (fit_statistic(part, ["energy", "overlap"]) for part in (episodes, scaled))
    assert np.allclose(a.running(episodes[0]), b.running(scaled[0]))


def test_an_unknown_signal_is_named():
    with pytest.raises(UserError, match="Unknown signal 'enrgy'"):
        fit_statistic([[{"energy": 1.0}]], ["enrgy"])
