"""Conformal thresholds keep their promise, and the file says for whom they hold."""

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.errors import UserError
from ebt_policy.monitoring.calibration import (
    Calibration,
    calibrated,
    conformal_rank,
    episodes_needed,
    false_alarm_range,
    read_calibration,
)
from ebt_policy.monitoring.signals import Statistic

STATISTIC = Statistic(("old_plan",), (0.0,), (1.0,))


def of(scores, alpha=0.1, **changes) -> Calibration:
    facts = {"statistic": STATISTIC, "horizon": 10, "checkpoint_sha256": "a" * 64, "source": "test"} | changes
    return calibrated(scores, alpha=alpha, **facts)


def test_it_says_how_long_an_episode_it_covers_and_a_file_without_the_rate_says_it_in_decisions(
    tmp_path: Path,
):
    made = of(range(20), acting={"n_action_steps": 8}, fps=10.0, horizon=30)
    assert made.covers == "30 decisions (24 s at full speed)"
    made.write(tmp_path / "new.json")
    assert read_calibration(tmp_path / "new.json").covers == made.covers
    old = json.loads((tmp_path / "new.json").read_text())
    del old["fps"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert read_calibration(tmp_path / "old.json").covers == "30 decisions"


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99)])
def test_the_fewest_episodes_are_the_published_ones(alpha, needed):
    assert episodes_needed(alpha) == needed
    assert conformal_rank(needed, alpha) == needed
    with pytest.raises(UserError, match=f"{needed} are needed, 1 more"):
        conformal_rank(needed - 1, alpha)


@given(st.integers(1, 300), st.integers(1, 99))
def test_the_rank_is_the_lowest_that_keeps_the_bound_for_a_new_episode(n, percent):
    """A new episode is above the k-th of n scores with probability 1 - k/(n + 1)."""
    kept = [k for k in range(1, n + 1) if 100 * (n + 1 - k) <= percent * (n + 1)]
    if kept:
        assert conformal_rank(n, percent / 100) == kept[0]
    else:
        with pytest.raises(UserError, match="are needed"):
            conformal_rank(n, percent / 100)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("n", [19, 50])
def test_false_alarms_of_exchangeable_episodes_stay_within_the_bound(n, alpha):
    """alpha - 1/(n + 1) <= rate <= alpha over many calibrations, each with one new episode."""
    rng = np.random.default_rng(0)
    repeats = 4000
    alarms = 0
    for draws in rng.gamma(2.0, size=(repeats, n + 1)):
        alarms += draws[-1] > of(draws[:-1], alpha).threshold
    rate, error = alarms / repeats, 3 * sqrt(alpha * (1 - alpha) / repeats)
    assert alpha - 1 / (n + 1) - error <= rate <= alpha + error


def test_the_realised_rate_lies_in_the_printed_range():
    rng = np.random.default_rng(1)
    low, high = false_alarm_range(50, 0.1)
    assert 0.03 < low < 0.06 and 0.15 < high < 0.2  # 4 to 17 %
    rates = np.array([1 - of(rng.uniform(size=50)).threshold for _ in range(2000)])
    assert np.mean((rates > low) & (rates < high)) == pytest.approx(0.9, abs=0.025)


def test_ties_are_no_alarm():
    calibration = of([1.0] * 20)
    assert not calibration.threshold < 1.0
    assert calibration.quantile(1.0) == 0.0
    assert calibration.quantile(1.1) == 20 / 21


def test_a_quantile_above_one_minus_alpha_means_alarm():
    rng = np.random.default_rng(2)
    calibration = of(rng.normal(size=57) + 5)
    for score in rng.normal(size=500) + 5:
        assert (score > calibration.threshold) == (calibration.quantile(score) >= calibration.rank / 58)


def test_it_returns_from_its_file_and_belongs_to_one_checkpoint(tmp_path: Path):
    calibration = of(np.arange(30.0), acting={"max_evaluations": 2})
    calibration.write(tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json", "a" * 64) == calibration
    assert json.loads((tmp_path / "c.json").read_text())["threshold"] == calibration.threshold
    with pytest.raises(UserError, match="another checkpoint"):
        read_calibration(tmp_path / "c.json", "b" * 64)


@pytest.mark.parametrize("signal", ["energy", "energy_drop", "residual"])
def test_one_made_from_the_draw_of_the_noise_is_refused_with_the_reason(tmp_path: Path, signal: str) -> None:
    statistic = Statistic((signal, "overlap"), (0.0, 0.0), (1.0, 1.0))
    of(np.arange(30.0), statistic=statistic).write(tmp_path / "c.json")
    with pytest.raises(UserError, match=f"made from {signal}, at a point that still has most of the noise"):
        read_calibration(tmp_path / "c.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "scores": [1, 2]}', '{"format": 1}'])
def test_other_files_are_refused(tmp_path: Path, text: str):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match="c.json"):
        read_calibration(tmp_path / "c.json")


def test_too_few_or_broken_scores_are_refused():
    with pytest.raises(UserError, match="no successful episode"):
        of([])
    with pytest.raises(UserError, match="finite"):
        of([float("nan")] * 20)
    with pytest.raises(UserError, match="too few"):
        replace(of(np.arange(20.0))).with_alpha(0.01)
