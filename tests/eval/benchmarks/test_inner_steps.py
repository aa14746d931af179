"""Shares and rates of evaluations, on episodes with known results."""

from pathlib import Path

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.inner_steps import MOMENTS, counts, solved_per_thousand, table
from ebt_policy.eval.report.report import Result
from ebt_policy.eval.rollout.episodes import Episode, write_parquet
from ebt_policy.model.trace import Trace


def episode(success: bool, evaluations: list[int], seed: int = 0) -> Episode:
    return Episode(
        seed=seed,
        env="pusht_keypoints",
        success=success,
        max_coverage=1.0,
        final_coverage=1.0,
        ticks=8 * len(evaluations),
        ticks_to_success=None,
        n_action_steps=8,
        decisions=len(evaluations),
        evaluations_per_decision=float(np.mean(evaluations)),
        inner_steps=float(np.mean(evaluations)),
        final_energy_mean=0.0,
        final_energy_max=0.0,
        traces=[Trace.without_steps(1, n) for n in evaluations],
    )


def trained(*trainings: list[Episode]) -> Result:
    return Result("", "", dict(enumerate(trainings)))


def test_moments_part_the_decisions():
    episodes = [episode(True, [3, 1, 1, 2]), episode(False, [4, 2, 5])]
    first, later, failing = (counts(episodes, taken).tolist() for taken in list(MOMENTS.values())[1:4])
    assert (first, later, failing) == ([3, 4], [1, 1, 2], [2, 5])
    everything = counts(episodes, lambda *_: True)
    assert sorted(first + later + failing) == sorted(everything.tolist())


def test_evaluations_of_failures_count_as_spent():
    one = [episode(i % 2 == 0, [2] * (40 if i % 2 else 10), i) for i in range(100)]
    rate, low, high = solved_per_thousand(trained(one))
    assert rate == pytest.approx(1000 / 100) and low < rate < high


def test_trainings_that_differ_widen_both_intervals(tmp_path: Path):
    """Twice the episodes of one training say no more than they did, where the second training tells how much trainings differ."""
    good, poor = ([episode(i < solved, [2] * 10, i) for i in range(100)] for solved in (90, 50))
    rate, low, high = solved_per_thousand(trained(good, poor))
    assert rate == pytest.approx(1e3 * 140 / 4000)
    assert low < 1e3 * 50 / 2000 and high > 1e3 * 90 / 2000  # either training may be the usual one
    for seed, episodes in enumerate((good, poor)):
        write_parquet(tmp_path / f"ebt-seed{seed}.parquet", episodes, {})
    (line,) = [line for line in table(sorted(tmp_path.glob("*"))).splitlines() if line.startswith("| ebt |")]
    assert "| 2 × 100 | 70.0% [" in line
    below, above = map(float, line.split("70.0% [")[1].split("]")[0].split(", "))
    assert below < 50 and above > 90


def test_trainings_on_other_episodes_are_refused(tmp_path: Path):
    for seed in (0, 1):
        write_parquet(tmp_path / f"ebt-seed{seed}.parquet", [episode(True, [2], seed)], {})
    with pytest.raises(UserError, match="'ebt'.*same episodes"):
        table(sorted(tmp_path.glob("*")))


def test_one_episode_has_a_rate_without_an_interval_and_none_are_refused(tmp_path: Path):
    assert solved_per_thousand(trained([episode(True, [2] * 10)])) == (pytest.approx(1000 / 20), 0, np.inf)
    write_parquet(tmp_path / "ebt-seed0.parquet", [], {})
    with pytest.raises(UserError, match="no episode"):
        table([tmp_path / "ebt-seed0.parquet"])


def test_training_seeds_are_one_line_and_fixed_budgets_have_no_distribution(tmp_path: Path):
    for seed in (0, 1):
        write_parquet(tmp_path / f"ebt-2-seed{seed}.parquet", [episode(True, [2, 2])], {})
        write_parquet(tmp_path / f"adaptive-seed{seed}.parquet", [episode(seed == 0, [3, 1])], {})
    text = table(sorted(tmp_path.glob("*.parquet")))
    assert "| ebt-2 | 2 × 1 | 100.0% " in text and "| adaptive | 2 × 1 | 50.0% " in text
    assert text.count("all decisions") == 1
