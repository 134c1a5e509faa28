"""Paired differences: interval, permutation test, and correction for having looked often.

The unit is the item. Answers to one item under several seeds are averaged first, so that an item is resampled and
flipped with all its seeds together; tasks weigh alike, however many items they have. Many measures of the same items
(the layers of a sweep, say) are columns of one array and share the resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from xmi.errors import MeasureError

CONFIDENCE, RESAMPLES = 0.95, 9999
_CHUNK = 1000  # resamples in memory at once
_TIE = 1e-12  # sums of the same numbers in another order are equal


@dataclass(frozen=True)
class Paired:
    """What paired differences say; one entry per measure.

    Attributes:
        difference: Mean over tasks of the mean over items, in [-1, 1].
        low: Lower end of the interval; NaN if a task has a single item.
        high: Upper end of the interval.
        p: Two-sided p-value of the sign-flip test.
        corrected: The same, corrected for looking at all measures (largest statistic).
    """

    difference: Float[np.ndarray, " measure"]
    low: Float[np.ndarray, " measure"]
    high: Float[np.ndarray, " measure"]
    p: Float[np.ndarray, " measure"]
    corrected: Float[np.ndarray, " measure"]


def paired(
    differences: Num[np.ndarray, "item measure"],
    tasks: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Estimates the mean difference of item-averaged hits and tests it against zero.

    The interval is a percentile bootstrap over items within tasks; `n - 1` of a task's `n` items are drawn, which makes
    the variance right for tasks with few items. It is never narrower than what the number of items can exclude: if
    all items agree, the next one may still differ (the "rule of three").

    The test flips the sign of each item's difference, which changes nothing if the two methods are exchangeable.
    All sign patterns are tried if there are at most `resamples + 1`, otherwise as many at random, and the observed
    pattern counts as one of them: p = (k + 1) / (m + 1). The corrected p-value compares with the largest statistic
    over the measures, each in units of its own null standard deviation, and so bounds the chance of any false finding.

    Args:
        differences: Difference of each item under each measure, in [-1, 1].
        tasks: Task of each item.
        confidence: Coverage of the two-sided interval.
        resamples: Bootstrap resamples, and random sign patterns.
        seed: Seed of both.

    Returns:
        One estimate per measure.

    Raises:
        MeasureError: No items, differing lengths, differences outside [-1, 1], or a faulty option.

    Source: J. N. K. Rao and C. F. J. Wu, "Resampling inference with complex survey data", JASA 1988 (n - 1 of n).
    J. A. Hanley and A. Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 1983 (rule of three).
    B. Phipson and G. K. Smyth, "Permutation p-values should never be zero", 2010 (one is added). T. E. Nichols and
    A. P. Holmes, "Nonparametric permutation tests for functional neuroimaging", 2002 (largest statistic).
    """
    values, names = np.asarray(differences, dtype=float), np.asarray(tasks)
    if values.ndim != 2 or not len(values) or names.shape != values.shape[:1]:
        raise MeasureError(f"Need differences [item, measure] and a task per item; got {values.shape}, {names.shape}.")
    if not (np.abs(values) <= 1 + _TIE).all():
        raise MeasureError("Differences of accuracies lie in [-1, 1]; got some that do not, or NaN.")
    if not (0 < confidence < 1 and resamples >= 1):
        raise MeasureError(f"Need 0 < confidence < 1 and resamples >= 1; got {confidence} and {resamples}.")
    _, strata, counts = np.unique(names, return_inverse=True, return_counts=True)
    weights = 1 / (len(counts) * counts[strata])
    low, high = _interval(values, weights, strata, (1 - confidence) / 2, resamples, np.random.default_rng([seed, 0]))
    p, corrected = _sign_flips(weights[:, None] * values, resamples, np.random.default_rng([seed, 1]))
    return Paired(weights @ values, low, high, p, corrected)


def _interval(
    values: Float[np.ndarray, "item measure"],
    weights: Float[np.ndarray, " item"],
    strata: Int[np.ndarray, " item"],
    tail: float,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " measure"], Float[np.ndarray, " measure"]]:
    members = [np.flatnonzero(strata == k) for k in range(strata.max() + 1)]
    if min(map(len, members)) < 2:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing
    drawn = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        means = [rng.multinomial(len(m) - 1, np.full(len(m), 1 / len(m)), size) @ values[m] / (len(m) - 1)
                 for m in members]  # fmt: skip
        drawn.append(np.mean(means, axis=0))
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    # With N items alike, more than this share of other ones would have shown in all but `tail` of the samples; each
    # of them could differ by as much as accuracies can. Unequal weights count as fewer items (Kish).
    estimate, unseen = weights @ values, 1 - tail ** float((weights**2).sum())
    return np.minimum(low, estimate - unseen * (1 + estimate)), np.maximum(high, estimate + unseen * (1 - estimate))


def _sign_flips(
    shares: Float[np.ndarray, "item measure"], resamples: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " measure"], Float[np.ndarray, " measure"]]:
    """The p-value of each column's sum under random signs of the rows, on its own and among all columns."""
    observed, spread = np.abs(shares.sum(0)), np.sqrt((shares**2).sum(0))
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    exact = 2.0 ** len(shares) <= resamples + 1
    alone, among, tried = np.zeros(len(observed)), np.zeros(len(observed)), 0
    for signs in _all_signs(len(shares)) if exact else _random_signs(len(shares), resamples, rng):
        null = np.abs(signs @ shares)
        alone += (null >= observed - _TIE).sum(0)
        among += ((null * scale).max(1)[:, None] >= observed * scale - _TIE).sum(0)
        tried += len(signs)
    extra = 0 if exact else 1
    return (alone + extra) / (tried + extra), (among + extra) / (tried + extra)


def _all_signs(n: int) -> Iterator[Float[np.ndarray, "pattern item"]]:
    yield 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def _random_signs(n: int, size: int, rng: np.random.Generator) -> Iterator[Float[np.ndarray, "pattern item"]]:
    for start in range(0, size, _CHUNK):
        yield 1.0 - 2.0 * rng.integers(0, 2, (min(_CHUNK, size - start), n))


def holm(p: ArrayLike) -> Float[np.ndarray, " test"]:
    """P-values corrected for the number of tests, so that the chance of any false finding is bounded.

    Args:
        p: P-values, in [0, 1].

    Returns:
        The corrected p-values, in the given order; valid however the tests depend on one another.

    Raises:
        MeasureError: Values outside [0, 1].

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 1979.

    Examples:
        >>> measure.holm([0.01, 0.04, 0.03])
        array([0.03, 0.06, 0.06])
    """
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1.0)
    return corrected


def benjamini_hochberg(p: ArrayLike) -> Float[np.ndarray, " test"]:
    """P-values corrected so that the expected share of false ones among the findings is bounded.

    Args:
        p: P-values, in [0, 1].

    Returns:
        The corrected p-values, in the given order; valid for independent or positively dependent tests.

    Raises:
        MeasureError: Values outside [0, 1].

    Source: Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", JRSS B 1995; scipy's
    `false_discovery_control`.

    Examples:
        >>> measure.benjamini_hochberg([0.01, 0.04, 0.03])
        array([0.03, 0.04, 0.04])
    """
    values = _checked(p)
    return np.asarray(false_discovery_control(values), dtype=float) if len(values) else values


def _checked(p: ArrayLike) -> Float[np.ndarray, " test"]:
    values = np.asarray(p, dtype=float)
    inside: Bool[np.ndarray, ...] = (values >= 0) & (values <= 1)
    if values.ndim != 1 or not inside.all():
        raise MeasureError(f"Need a list of p-values in [0, 1]; got {values.tolist()}.")
    return values
