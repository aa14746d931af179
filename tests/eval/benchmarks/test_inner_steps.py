"""Shares and rates of evaluations, on episodes with known results."""

from pathlib import Path

import numpy as np
import pytest

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.inner_steps import MOMENTS, counts, solved_per_thousand, table
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


def test_moments_part_the_decisions():
    episodes = [episode(True, [3, 1, 1, 2]), episode(False, [4, 2, 5])]
    first, later, failing = (counts(episodes, taken).tolist() for taken in list(MOMENTS.values())[1:4])
    assert (first, later, failing) == ([3, 4], [1, 1, 2], [2, 5])
    everything = counts(episodes, lambda *_: True)
    assert sorted(first + later + failing) == sorted(everything.tolist())


def test_evaluations_of_failures_count_as_spent():
    rate, low, high = solved_per_thousand([episode(True, [2] * 10), episode(False, [2] * 40)] * 50)
    assert rate == pytest.approx(1000 / 100) and low < rate < high


def test_one_episode_has_a_rate_without_an_interval_and_none_are_refused():
    assert solved_per_thousand([episode(True, [2] * 10)]) == (pytest.approx(1000 / 20), 0, np.inf)
    with pytest.raises(UserError, match="at least one episode"):
        solved_per_thousand([])


def test_training_seeds_are_one_line_and_fixed_budgets_have_no_distribution(tmp_path: Path):
    for seed in (0, 1):
        write_parquet(tmp_path / f"ebt-2-seed{seed}.parquet", [episode(True, [2, 2], seed)], {})
        write_parquet(tmp_path / f"adaptive-seed{seed}.parquet", [episode(seed == 0, [3, 1], seed)], {})
    text = table(sorted(tmp_path.glob("*.parquet")))
    assert "| ebt-2 | 2 | 100.0% " in text and "| adaptive | 2 | 50.0% " in text
    assert text.count("all decisions") == 1
