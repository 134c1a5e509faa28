"""Interval estimates for accuracies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from xmi.errors import MeasureError
from xmi.numerals import estimate
from xmi.shown import Shown


@dataclass(frozen=True)
class Proportion(Shown):
    """An accuracy with its sample size and Wilson score interval.

    Attributes:
        mean: The estimate, in [0, 1].
        n: Number of independent units behind it (distinct items, not repeated prompts of one item).
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        """Returns the estimate and interval as `0.96 [0.90, 0.98]`."""
        return estimate(self.mean, self.low, self.high)

    def apart(self, other: Proportion) -> bool:
        """Returns whether the two intervals do not overlap."""
        return self.low > other.high or other.low > self.high


def wilson(mean: float, n: int, confidence: float = 0.95) -> Proportion:
    """Wilson score interval of a proportion.

    Args:
        mean: Observed proportion, in [0, 1]. It need not be a multiple of `1 / n`: repeated prompts of one item
            are averaged first, so that `n` counts independent items.
        n: Number of independent units.
        confidence: Coverage of the two-sided interval.

    Returns:
        The proportion with its interval. With `n = 0` all values are NaN.

    Raises:
        MeasureError: `mean` lies outside [0, 1] or `n` is negative.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Examples:
        >>> found = measure.wilson(0.5, n=20)
        >>> round(found.low, 3), round(found.high, 3)
        (0.299, 0.701)
    """
    if n < 0 or (n > 0 and not 0.0 <= mean <= 1.0) or not 0 < confidence < 1:
        raise MeasureError(
            f"A proportion needs 0 <= mean <= 1, n >= 0 and 0 < confidence < 1; got mean={mean}, n={n}, "
            f"confidence={confidence}."
        )
    if n == 0:
        return Proportion(float("nan"), 0, float("nan"), float("nan"))
    z = _quantile(0.5 + confidence / 2)
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)))
    # With mean 0 or 1 the exact bound is 0 or 1; rounding must not leave it a hair inside.
    low = 0.0 if mean == 0.0 else max(0.0, centre - half)
    high = 1.0 if mean == 1.0 else min(1.0, centre + half)
    return Proportion(float(mean), int(n), low, high)


@cache
def _quantile(share: float) -> float:
    """A quantile of the normal distribution, which scipy takes long for."""
    return float(norm.ppf(share))


def accuracy(
    hits: ArrayLike, units: ArrayLike, groups: ArrayLike | None = None, confidence: float = 0.95
) -> Proportion:
    """Accuracy over independent units, each perhaps asked several times.

    Hits of one unit (one item under several seeds, say) are averaged before the interval is drawn, because
    repeats of an item are not independent; the interval is then conservative, never too narrow.

    Args:
        hits: One 0/1 value per answer, shape [answer].
        units: The unit (item) each answer belongs to, shape [answer].
        groups: The group (task) of each answer, shape [answer]. With several groups the mean over groups is taken,
            so that a task with many items weighs no more than one with few, as in the paper's tables.
        confidence: Coverage of the interval.

    Returns:
        The mean, with `n` = number of distinct units.

    Raises:
        MeasureError: The arguments differ in length, or a hit is NaN or not in [0, 1].

    Examples:
        >>> found = measure.accuracy([True, True, False, True], units=["a", "a", "b", "c"])
        >>> found.n, round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (3, 0.667, 0.208, 0.939)
    """
    return accuracies(np.asarray(hits, dtype=float)[None], units, groups, confidence)[0]


def accuracies(
    hits: ArrayLike, units: ArrayLike, groups: ArrayLike | None = None, confidence: float = 0.95
) -> list[Proportion]:
    """The accuracy of each row of hits, all over the same units; see `accuracy`.

    Args:
        hits: Shape [row, answer].
        units: Shape [answer].
        groups: Shape [answer].
        confidence: Coverage of the intervals.

    Raises:
        MeasureError: As `accuracy`.
    """
    values: NDArray[Any] = np.asarray(hits, dtype=float)
    names: NDArray[Any] = np.asarray(units)
    kinds: NDArray[Any] = np.zeros(values.shape[1:], dtype=int) if groups is None else np.asarray(groups)
    if not values.shape[1:] == names.shape == kinds.shape:
        raise MeasureError(
            f"hits, units and groups need one entry per answer; got {values.shape[1:]}, {names.shape}, {kinds.shape}."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise MeasureError("Hits lie in [0, 1]; got some that do not, or NaN.")
    if names.size == 0:
        return [wilson(0.0, 0, confidence)] * len(values)
    members = [kinds == kind for kind in np.unique(kinds)]
    unit_of = [np.unique(names[chosen], return_inverse=True)[1] for chosen in members]
    asked = [np.bincount(unit) for unit in unit_of]
    means = []
    for chosen, unit, times in zip(members, unit_of, asked, strict=True):
        sums = np.zeros((len(times), len(values)))
        np.add.at(sums, unit, values[:, chosen].T)
        means.append((np.ascontiguousarray(sums.T) / times).mean(1))
    count = sum(map(len, asked))
    return [wilson(min(1.0, mean), count, confidence) for mean in np.stack(means, 1).mean(1).tolist()]
