import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.errors import UserError
from ebt_policy.eval.statistics.intervals import (
    auc,
    crossed_mean,
    mcnemar,
    paired_success_difference,
    success_rate,
    wilson,
)

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)
finite = st.floats(-100, 100)
scores = st.lists(st.integers(-20, 20), min_size=1, max_size=30)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_lies_in_the_unit_interval_and_is_symmetric(case: tuple[int, int]):
    successes, n = case
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n)
    np.testing.assert_allclose((low, high), (1 - mirrored[1], 1 - mirrored[0]), atol=1e-12)
    assert wilson(successes, n, 0.99)[1] >= high


def test_wilson_against_published_values():
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I.
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=1e-4)
    np.testing.assert_allclose(wilson(0, 20), (0, 0.1611), atol=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_wilson_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low <= 0.8 <= high for low, high in (wilson(k, 100) for k in rng.binomial(100, 0.8, 1000))]
    assert 0.92 < np.mean(covered) < 0.98


@given(outcomes)
def test_mcnemar_is_symmetric_and_ignores_agreement(pairs: list[tuple[bool, bool]]):
    a, b = zip(*pairs, strict=True)
    test, swapped = mcnemar(a, b), mcnemar(b, a)
    assert test.p_value == pytest.approx(swapped.p_value) and 0 < test.p_value <= 1
    assert (test.only_first, test.only_second) == (swapped.only_second, swapped.only_first)
    assert mcnemar([*a, True, False], [*b, True, False]).p_value == test.p_value
    assert mcnemar(a, a).p_value == 1


def test_mcnemar_is_the_sign_test_on_disagreements():
    assert mcnemar([True] * 8 + [False], [False] * 8 + [True]).p_value == pytest.approx(2 * 10 / 2**9)


@given(outcomes)
def test_success_difference_holds_its_estimate_and_is_antisymmetric(pairs: list[tuple[bool, bool]]):
    a, b = zip(*pairs, strict=True)
    difference, swapped = paired_success_difference(a, b), paired_success_difference(b, a)
    assert difference.estimate == pytest.approx(np.mean(a) - np.mean(b))
    assert -1 - 1e-9 <= difference.low <= difference.estimate + 1e-9
    assert difference.estimate - 1e-9 <= difference.high <= 1 + 1e-9
    np.testing.assert_allclose((swapped.low, swapped.high), (-difference.high, -difference.low), atol=1e-9)


def test_success_difference_against_a_published_value():
    # Altman et al. 2000, Statistics with Confidence, table 6.2: 14, 5, 0 and 22 pairs.
    a = [True] * 14 + [True] * 5 + [False] * 22
    b = [True] * 14 + [False] * 5 + [False] * 22
    difference = paired_success_difference(a, b)
    np.testing.assert_allclose(
        (difference.estimate, difference.low, difference.high), (0.122, 0.011, 0.226), atol=5e-4
    )


def test_policies_that_always_agree_still_leave_an_uncertain_difference():
    difference = paired_success_difference([True] * 50, [True] * 50)
    assert difference.low < 0 < difference.high


@pytest.mark.parametrize(("p_first", "p_second", "overlap"), [(0.85, 0.85, 0.5), (0.8, 0.6, 0.3)])
def test_success_difference_covers_the_truth_about_as_often_as_it_says(p_first, p_second, overlap):
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        shared, own1, own2 = rng.random((3, 100))
        use = rng.random(100) < overlap  # correlated episodes: some are decided by the shared draw
        first, second = np.where(use, shared, own1) < p_first, np.where(use, shared, own2) < p_second
        interval = paired_success_difference(first, second)
        hits.append(interval.low <= p_first - p_second <= interval.high)
    assert 0.91 < np.mean(hits) < 0.99


def test_mean_difference_is_paired():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 200)
    difference = crossed_mean([difficulty + 0.5 + rng.normal(0, 0.1, 200) - difficulty])
    assert 0.45 < difference.low < difference.estimate < difference.high < 0.55
    repeated = crossed_mean([difficulty - difficulty])
    assert (repeated.low, repeated.estimate, repeated.high) == (0, 0, 0)


def test_intervals_of_several_trainings_hold_the_rate_of_a_new_one_as_often_as_they_say():
    """The rate of trainings in general, where these differ: Wilson's interval, which knows of episodes alone, holds it less often."""
    rng = np.random.default_rng(0)
    held, held_by_wilson = [], []
    for _ in range(150):
        rates = rng.normal(0.8, 0.06, 8).clip(0, 1)
        outcomes = rng.random((8, 100)) < rates[:, None]
        interval = success_rate(outcomes)
        low, high = wilson(int(outcomes.sum()), outcomes.size)
        held.append(interval.low <= 0.8 <= interval.high)
        held_by_wilson.append(low <= 0.8 <= high)
    assert np.mean(held) > 0.88 and np.mean(held_by_wilson) < 0.8


def test_success_rates_keep_a_width_and_one_training_has_wilsons():
    assert success_rate(np.ones((3, 20))).low == wilson(60, 60)[0]
    row = np.arange(50) % 3 > 0
    assert (success_rate([row]).low, success_rate([row]).high) == wilson(int(row.sum()), 50)


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_order(positive: list[int], negative: list[int]):
    p, n = np.array(positive)[:, None], np.array(negative)
    assert auc(positive, negative) == pytest.approx(((p > n) + 0.5 * (p == n)).mean())
    assert auc(positive, negative) == pytest.approx(1 - auc(negative, positive))


@given(st.lists(st.tuples(finite, finite), max_size=8))
def test_intervals_of_any_number_of_pairs_hold_their_estimate_or_are_refused(
    pairs: list[tuple[float, float]],
):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if not pairs:
        for compared in (paired_success_difference, mcnemar):
            with pytest.raises(UserError, match="one result per seed"):
                compared(a, b)
        with pytest.raises(UserError, match=r"shape \(1, 0\)"):
            crossed_mean([a])
        return
    means = crossed_mean([np.subtract(a, b)])
    rates = paired_success_difference([x > 0 for x in a], [y > 0 for y in b])
    for found in (means, rates):
        assert found.low - 1e-9 <= found.estimate <= found.high + 1e-9
    assert 0 < mcnemar([x > 0 for x in a], [y > 0 for y in b]).p_value <= 1
    if len(pairs) == 1:  # nothing is known of the spread
        assert (means.low, means.high) == (-np.inf, np.inf)
        assert rates.low < rates.high


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2), (0, -1)])
def test_impossible_success_counts_are_refused(successes: int, n: int):
    with pytest.raises(UserError, match=f"found {successes} of n = {n}"):
        wilson(successes, n)


def test_unpaired_results_are_refused():
    with pytest.raises(UserError, match=r"\(3,\) and \(2,\)"):
        mcnemar([True, False, True], [True, False])
    with pytest.raises(UserError, match="both classes"):
        auc([], [1.0])
