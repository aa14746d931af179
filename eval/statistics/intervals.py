"""Intervals and tests for comparing policies on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, mannwhitneyu

from ebt_policy.errors import UserError

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; infinite ends where the data say nothing about the spread."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test: episodes that only the first or only the second policy solved, two-sided p."""

    only_first: int
    only_second: int
    p_value: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (low, high) of a success rate; (0, 1) for n = 0. Raises UserError unless 0 <= successes <= n."""
    if not 0 <= successes <= n:
        raise UserError(f"A success rate needs 0 to n successes; found {successes} of n = {n}.")
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """McNemar's exact test of equal success on the same seeds. It uses only the seeds on which the two disagree."""
    a, b = _paired(first, second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    disagreements = only_first + only_second
    p_value = binomtest(only_first, disagreements).pvalue if disagreements else 1.0
    return PairedTest(only_first, only_second, float(p_value))


def paired_success_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> Interval:
    """Success rate of the first minus the second on the same seeds, by Newcombe's score method for pairs.

    Unlike a bootstrap it keeps a width when the policies never disagree. (Newcombe 1998, Statistics in
    Medicine 17, 2635-2650, method 10.)
    """
    a, b = _paired(first, second, bool)
    n = len(a)
    p1, p2 = a.mean(), b.mean()
    (low1, high1), (low2, high2) = wilson(a.sum(), n, confidence), wilson(b.sum(), n, confidence)
    both, only1, only2, neither = (a & b).sum(), (a & ~b).sum(), (b & ~a).sum(), (~a & ~b).sum()
    # Correlation of the pairs, with Newcombe's continuity correction on its positive side.
    covariance = both * neither - only1 * only2
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    scale = sqrt((both + only1) * (only2 + neither) * (both + only2) * (only1 + neither))
    phi = covariance / scale if scale else 0.0
    below = _combine(p1 - low1, high2 - p2, phi)
    above = _combine(high1 - p1, p2 - low2, phi)
    return Interval(float(p1 - p2), float(p1 - p2 - below), float(p1 - p2 + above))


def crossed_draws(shape: tuple[int, ...], count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How often each of K trainings (count, K) and each of n episodes (count, n) is drawn, with replacement and independently of each
    other. shape: (K, n).
    """
    trainings, episodes = shape
    rng = np.random.default_rng(seed)
    return (
        rng.multinomial(trainings, np.full(trainings, 1 / trainings), count),
        rng.multinomial(episodes, np.full(episodes, 1 / episodes), count),
    )


def crossed_mean(values: ArrayLike, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean of (K, n) values of K trainings on the same n episodes, by a bootstrap that resamples trainings and episodes.

    (Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1, 386-411.) Few trainings say little about how much they differ:
    with two the interval is still too narrow. One episode says nothing about the spread: its interval is infinite.
    """
    matrix = np.asarray(values, float)
    if matrix.ndim != 2 or not matrix.size:
        raise UserError(f"Expected values of K trainings by n episodes; found the shape {matrix.shape}.")
    if matrix.shape[1] == 1:
        return Interval(float(matrix.mean()), -inf, inf)
    rows, columns = crossed_draws(matrix.shape, RESAMPLES, seed)
    means = ((rows @ matrix) * columns).sum(1) / matrix.size
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(matrix.mean()), float(low), float(high))


def success_rate(outcomes: ArrayLike, confidence: float = 0.95) -> Interval:
    """Success rate of (K, n) outcomes of K trainings on the same n episodes.

    K = 1, or n = 1: Wilson's interval. Otherwise `crossed_mean`'s, and nowhere narrower than Wilson's, so that it keeps a width where every
    episode is solved.
    """
    matrix = np.asarray(outcomes, float)
    low, high = wilson(int(matrix.sum()), matrix.size, confidence)
    if 1 in matrix.shape:
        return Interval(float(matrix.mean()), low, high)
    crossed = crossed_mean(matrix, confidence)
    return Interval(crossed.estimate, min(crossed.low, low), max(crossed.high, high))


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann-Whitney U over all
    pairs).
    """
    positive, negative = np.ravel(positive), np.ravel(negative)
    if not len(positive) or not len(negative):
        raise UserError(
            f"AUC needs both classes; found {len(positive)} positive and {len(negative)} negative scores."
        )
    return float(np.asarray(mannwhitneyu(positive, negative))[0] / (len(positive) * len(negative)))


def _combine(own: float, other: float, phi: float) -> float:
    return sqrt(max(own**2 - 2 * phi * own * other + other**2, 0.0))


def _paired(first: ArrayLike, second: ArrayLike, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    a: np.ndarray = np.asarray(first, dtype)
    b: np.ndarray = np.asarray(second, dtype)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise UserError(
            f"A paired comparison needs one result per seed from both; found {a.shape} and {b.shape}."
        )
    return a, b
