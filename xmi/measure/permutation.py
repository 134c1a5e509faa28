"""Permutation tests of many layers at once: which labels are exchanged, and what the p-values are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations as every_order

import numpy as np
from jaxtyping import Float, Int

PERMUTATIONS = 999
_TIE = 1e-9  # sums of the same numbers in another order are equal


@dataclass(frozen=True)
class Tested:
    """What a permutation test says, one entry per layer.

    Attributes:
        chance: Mean of the statistic over the permutations.
        p: P-value of the layer on its own (one-sided: as large or larger).
        corrected: P-value corrected for having looked at all layers (largest statistic).
    """

    chance: Float[np.ndarray, " layer"]
    p: Float[np.ndarray, " layer"]
    corrected: Float[np.ndarray, " layer"]


def orders(size: int, permutations: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, "order size"], bool]:
    """Orders of a few things: all of them if they are few, else the given one and random ones.

    Args:
        size: Number of things.
        permutations: Random orders to draw where not all are tried.
        rng: Where they are drawn from.

    Returns:
        The orders, the identity first, and whether they are all there are.
    """
    if math.factorial(min(size, 20)) <= permutations + 1:
        return np.array(list(every_order(range(size)))), True
    drawn = rng.permuted(np.tile(np.arange(size), (permutations, 1)), axis=1)
    return np.concatenate([np.arange(size)[None], drawn]), False


def shuffles(
    strata: Sequence[str], permutations: int, rng: np.random.Generator
) -> Int[np.ndarray, "permutation point"]:
    """Random exchanges of points that stay within a stratum.

    Args:
        strata: Stratum of each point.
        permutations: How many to draw.
        rng: Where they are drawn from.

    Returns:
        For each permutation the point whose label each point gets; the identity first.
    """
    names = np.asarray(strata)
    found = np.tile(np.arange(len(names)), (permutations + 1, 1))
    for name in dict.fromkeys(strata):
        members = np.flatnonzero(names == name)
        found[1:, members] = rng.permuted(np.tile(members, (permutations, 1)), axis=1)
    return found


def p_values(statistics: Float[np.ndarray, "permutation layer"]) -> Tested:
    """P-values of the first row among all rows.

    Args:
        statistics: The statistic under each permutation, the observed one first. Because the observed labels are
            among the permutations, random or all, p = (k + 1) / (m + 1) with k of m others as large.

    Returns:
        P-values per layer. The corrected ones compare with the largest statistic over the layers, each in units of
        its own permutation distribution. A layer that holds NaN has NaN.

    Source: B. Phipson and G. K. Smyth, "Permutation p-values should never be zero", 2010 (one is added). T. E. Nichols
    and A. P. Holmes, "Nonparametric permutation tests for functional neuroimaging", 2002 (largest statistic).
    """
    known = np.isfinite(statistics).all(0)
    values = np.where(known, statistics, 0.0)
    p = (values >= values[0] - _TIE).mean(0)
    spread = values.std(0)
    varies = spread > _TIE
    scaled = np.divide(values - values.mean(0), spread, out=np.zeros_like(values), where=varies)
    corrected = (scaled.max(1)[:, None] >= scaled[0] - _TIE).mean(0)
    nothing = np.full(len(p), np.nan)
    return Tested(*(np.where(known, found, nothing) for found in (values.mean(0), p, np.where(varies, corrected, 1.0))))
