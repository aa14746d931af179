"""Detection figures, on scores with known results."""

from dataclasses import replace

import numpy as np
import pytest

from ebt_policy.eval.failures.failure_detection import (
    CELLS,
    Scored,
    at_alpha,
    auroc,
    matched_lengths,
    resampled,
    scored,
)
from ebt_policy.eval.rollout.watched_episodes import WatchedEpisode
from ebt_policy.monitoring.signals import Statistic


def episode(success: bool, energies, env="pusht_keypoints", seed=0) -> WatchedEpisode:
    values = np.asarray(energies, float)
    n = len(values)
    return WatchedEpisode(
        env=env,
        seed=seed,
        success=success,
        length=8 * n,
        ticks=8 * np.arange(n),
        signals={"energy": np.exp(values), "time": np.arange(1.0, n + 1)},
        observations={},
        chunks=np.zeros((n, 16, 2), np.float32),
    )


def some(n: int = 60) -> list[WatchedEpisode]:
    """Successes of 5 to 14 decisions at the usual energy, failures of 38 whose energy is high from decision 4 on."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        env = "pusht_keypoints+push" if i % 2 else "pusht_keypoints"
        made.append(episode(True, rng.normal(size=int(rng.integers(5, 15))), env, i))
        made.append(episode(False, rng.normal(size=38) + 3 * (np.arange(38) >= 4), env, i))
    return made


ENERGY = Statistic(("energy",), (0.0,), (1.0,), slack=0.5)
TIME = Statistic(("time",), (0.0,), (1.0,), window=1)


def test_failures_are_cut_to_the_lengths_of_successes():
    episodes = some()
    lengths = matched_lengths(episodes)
    successes = {e.decisions for e in episodes if e.success}
    assert all(n in successes for n, e in zip(lengths, episodes, strict=True) if not e.success)
    assert all(n == e.decisions for n, e in zip(lengths, episodes, strict=True) if e.success)


def test_time_alone_tells_nothing_once_lengths_match():
    episodes = some(400)
    assert auroc(scored(TIME, episodes, matched_lengths(episodes))) == pytest.approx(0.5, abs=0.05)
    uncut = scored(TIME, episodes, [e.decisions for e in episodes])
    assert auroc(uncut) == 1.0


def test_a_good_score_is_recognised_as_one():
    episodes = some()
    results = scored(ENERGY, episodes, matched_lengths(episodes))
    assert auroc(results) > 0.9
    others = [e for e in some(80) if e.success]
    calibration = [e.worst for e in scored(ENERGY, others, [e.decisions for e in others])]
    at = at_alpha(results, calibration, 0.1)
    assert at.tpr > 0.85 and at.tnr > 0.8
    assert at.balanced_accuracy == (at.tpr + at.tnr) / 2
    assert at.time_weighted_accuracy < at.balanced_accuracy  # an alarm is never at once


def test_cells_and_alarm_times():
    results = scored(ENERGY, some(), matched_lengths(some()))
    assert {e.cell for e in results} == set(CELLS)
    one = Scored("failure", np.array([0.0, 1.0, 5.0]), np.array([0, 8, 16]), 24)
    assert one.alarm(2.0) == pytest.approx(16 / 24)
    assert one.alarm(5.0) is None  # equal is no alarm
    assert replace(one, cell="success").failure is False


def test_resampling_keeps_the_size_of_each_cell():
    results = scored(ENERGY, some(), matched_lengths(some()))
    drawn = resampled(results, np.random.default_rng(0))
    for cell in CELLS:
        assert sum(e.cell == cell for e in drawn) == sum(e.cell == cell for e in results)


def test_without_failures_there_are_no_figures_of_them_and_no_error():
    episodes = [e for e in some() if e.success]
    successes = scored(ENERGY, episodes, [e.decisions for e in episodes])
    assert np.isnan(auroc(successes))
    at = at_alpha(successes, np.linspace(1000, 1009, 99).tolist(), 0.1)
    assert np.isnan([at.tpr, at.balanced_accuracy, at.time_weighted_accuracy]).all() and at.tnr == 1
