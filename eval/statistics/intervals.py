"""Intervals and tests for comparing policies on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap, mannwhitneyu

from ebt_policy.errors import UserError


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


def paired_mean_difference(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of first minus second (for example coverage) on the same seeds, by a percentile bootstrap over
    pairs. One pair says nothing about the spread: its interval is infinite.
    """
    a, b = _paired(first, second, float)
    if len(a) == 1:
        return Interval(float(a[0] - b[0]), -inf, inf)
    interval = bootstrap(
        (a - b,), np.mean, confidence_level=confidence, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(float((a - b).mean()), float(interval.low), float(interval.high))


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
