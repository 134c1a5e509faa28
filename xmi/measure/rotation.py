"""Rotations that are fitted to all pairs of vectors but one, and what they make of that one, for many pairings.

The rotation that best takes rows x to rows y is the orthogonal factor of C, the sum of their products x_i' y_i. Without
pair h that is C - s x_h' y_h, which differs from C by a matrix of rank one. In the basis of C's singular vectors, with
u = x_h U and v = y_h V, the product of the rotated x_h and y_h is

    2/pi times the integral over t > 0 of (r (1 - s r) - s p q) / ((1 - s r)^2 + s^2 p q), where
    p = sum t u^2 / (S^2 + t^2),  q = sum t v^2 / (S^2 + t^2),  r = sum S u v / (S^2 + t^2),

by the integral of the inverse square root and the Woodbury identity. So one decomposition per pairing is enough, where
decomposing each matrix anew takes as many as there are pairs.

Source: N. Hale, N. J. Higham, L. N. Trefethen, "Computing A^a, log(A), and related matrix functions by contour
integrals", SIAM J. Numer. Anal. 2008 (method 3: the nodes of the integral).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ellipj, ellipkm1

ROUNDING = 8 * np.finfo(float).eps
DIGITS = 16
"""To which the integral is taken."""

CHUNK = 2**18
"""Integrands that are held at a time."""


def left_out_cosines(
    left: Float[np.ndarray, "pair d"],
    right: Float[np.ndarray, "pair d"],
    orders: Int[np.ndarray, "order pair"],
    *,
    centred: bool,
) -> Float[np.ndarray, "order pair"]:
    """Cosine of each row's partner and the row under the rotation that best takes the other rows to their partners.

    Args:
        left: Vectors of one side; of mean zero if `centred`.
        right: Vectors of the other, which span no more dimensions than there are pairs but one.
        orders: Pairings: which row of `right` belongs to each row of `left`.
        centred: The mean of the rows that are fitted is taken from all of a side.

    Returns:
        The cosines; NaN where one of the two vectors is zero.
    """
    count = len(left)
    # Less the mean of the others a row is longer by this, and the others' products lack this much of the row's own.
    scale = count / (count - 1) if centred else 1.0
    lengths = [np.linalg.norm(side, axis=1) for side in (left, right)]
    noise = ROUNDING * lengths[0].max() * lengths[1].max()
    found = []
    step = max(1, CHUNK // (64 * count))
    for start in range(0, len(orders), step):
        order = orders[start : start + step]
        norms = lengths[0] * lengths[1][order]
        products = _products(left, right[order], scale)
        found.append(np.divide(products, norms, out=np.full_like(norms, np.nan), where=norms > noise))
    return np.concatenate(found)


def _products(
    left: Float[np.ndarray, "pair d"], right: Float[np.ndarray, "order pair d"], scale: float
) -> Float[np.ndarray, "order pair"]:
    """Products of each rotated row and its partner, the rotation fitted without them."""
    basis, values, other = np.linalg.svd(left.T @ right)
    u, v = left @ basis, right @ other.swapaxes(1, 2)
    t, weights = _nodes(*_bounds(u, v, values, scale))
    inverse = 1 / (values[..., None] ** 2 + t**2)
    p, q = (t * (side**2 @ inverse) for side in (u, v))
    r = (u * v) @ (values[..., None] * inverse)
    rest = 1 - scale * r
    return np.asarray((r * rest - scale * p * q) / (rest**2 + scale**2 * p * q) @ weights)


def _bounds(
    u: Float[np.ndarray, "order pair d"],
    v: Float[np.ndarray, "order pair d"],
    values: Float[np.ndarray, "order d"],
    scale: float,
) -> tuple[float, float]:
    """Between what the singular values of all matrices without a pair lie (by the Sherman-Morrison formula)."""
    high = float((values[:, 0] + scale * _longest(u) * _longest(v)).max())
    least = high * np.finfo(float).eps
    inverse = 1 / np.maximum(values, least)[:, None]
    rest = np.abs(1 - scale * (u * v * inverse).sum(-1))
    product = np.linalg.norm(u * inverse, axis=-1) * np.linalg.norm(v * inverse, axis=-1)
    return max(least, float((rest / (rest * inverse.max(-1) + scale * product)).min())), high


def _longest(vectors: Float[np.ndarray, "order pair d"]) -> Float[np.ndarray, " order"]:
    return np.asarray(np.linalg.norm(vectors, axis=-1).max(1))


def _nodes(low: float, high: float) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    """Where an integrand is taken whose poles have imaginary parts from `low` to `high`, and its weights times 2/pi."""
    square = (low / high) ** 2
    half = int(np.ceil(DIGITS * np.log(10) * (np.log(1 / square) + 3) / (4 * np.pi**2))) + 1
    period = ellipkm1(square)
    sine, cosine, delta, _ = ellipj((np.arange(half) + 0.5) * period / (2 * half), 1 - square)
    t, weights = low * sine / cosine, low * delta / cosine**2
    other = low * high / t  # the same nodes from the other end, where cosines are too small to be exact
    return np.concatenate([t, other]), period / (np.pi * half) * np.concatenate([weights, other / t * weights])
