"""Do two sets of paired vectors have one geometry? CKA, RSA and Procrustes, for many pairings at once.

Each function takes the vectors of both sides, row by row in correspondence, and `orders`: pairings to try, the given
one first. None of them asks that the two sides share coordinates (a rotation of one side changes nothing), so they see
likeness of shape where cosines see likeness of place.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from xmi.measure.rotation import left_out_cosines

LEAST = 4
"""Fewest pairs for which any of these measures is defined or says anything."""


def linear_cka(
    a: Float[np.ndarray, "pair d_a"], b: Float[np.ndarray, "pair d_b"], orders: Int[np.ndarray, "order pair"]
) -> Float[np.ndarray, " order"]:
    """Linear centred kernel alignment, with the unbiased estimate of HSIC.

    The usual estimate nears 1 whenever there are fewer pairs than dimensions; the unbiased one is about 0 for unrelated
    vectors, and may be negative.

    Args:
        a: Vectors of one side.
        b: Vectors of the other.
        orders: Pairings: which row of `b` belongs to each row of `a`.

    Returns:
        One value in [-1, 1] per pairing; NaN if there are fewer than 4 pairs or one side does not vary.

    Source: S. Kornblith et al., "Similarity of neural network representations revisited", ICML 2019 (eq. 3 and 4);
    L. Song et al., "Feature selection via dependence maximization", JMLR 2012 (unbiased HSIC).
    """
    if len(a) < LEAST:
        return np.full(len(orders), np.nan)
    left, right = _u_centred(a), _u_centred(b)
    scale = np.linalg.norm(left) * np.linalg.norm(right)
    if scale <= np.finfo(float).eps * np.sum(a**2) * np.sum(b**2):
        return np.full(len(orders), np.nan)
    return np.array([np.vdot(left, right[order[:, None], order]) / scale for order in orders])


def rsa(
    a: Float[np.ndarray, "pair d_a"], b: Float[np.ndarray, "pair d_b"], orders: Int[np.ndarray, "order pair"]
) -> Float[np.ndarray, " order"]:
    """Representational similarity analysis: rank correlation of the two dissimilarity matrices.

    Args:
        a: Vectors of one side, one per condition (task).
        b: Vectors of the other.
        orders: Pairings: which row of `b` belongs to each row of `a`.

    Returns:
        Spearman's correlation of the cosine distances of all pairs of conditions, one value per pairing; NaN if there
        are fewer than 4 conditions, or if all distances of one side are equal.

    Source: N. Kriegeskorte, M. Mur, P. Bandettini, "Representational similarity analysis", Front. Syst. Neurosci. 2008.
    """
    if len(a) < LEAST:
        return np.full(len(orders), np.nan)
    left, right = (_standard(pdist(side, "cosine")) for side in (a, b))
    square = squareform(right)
    upper = np.triu_indices(len(a), 1)
    return np.asarray(square[orders[:, upper[0]], orders[:, upper[1]]] @ left)


def procrustes(
    a: Float[np.ndarray, "pair d_a"],
    b: Float[np.ndarray, "pair d_b"],
    orders: Int[np.ndarray, "order pair"],
    *,
    centred: bool = True,
) -> Float[np.ndarray, " order"]:
    """How well a rotation fitted on the other pairs carries a held-out vector onto its partner.

    Each side is described by as many principal components as one pair fewer can span, without looking at the pairing.
    Each pair in turn is held out; the orthogonal map that best takes the others of `a` to those of `b` is applied
    to it. Means, too, are those of the others: subtracting the mean over all would give the held-out pair away.

    Args:
        a: Vectors of one side.
        b: Vectors of the other.
        orders: Pairings: which row of `b` belongs to each row of `a`.
        centred: Subtract each side's mean (over the pairs fitted) first; otherwise rotate about the origin.

    Returns:
        Mean cosine between mapped and true held-out vectors, one value in [-1, 1] per pairing; NaN if there are fewer
        than 4 pairs, if one side does not vary, or if one of the vectors compared is zero.

    Source: P. H. Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.
    """
    count = len(a)
    if count < LEAST or not all(_varies(side, centred) for side in (a, b)):
        return np.full(len(orders), np.nan)
    width = min(count - 2 if centred else count - 1, a.shape[1], b.shape[1])
    left, right = (_components(side, width, centred) for side in (a, b))
    return np.asarray(np.clip(left_out_cosines(left, right, orders, centred=centred).mean(1), -1.0, 1.0))


def _u_centred(points: Float[np.ndarray, "pair d"]) -> Float[np.ndarray, "pair pair"]:
    """The Gram matrix, centred such that products of two of them are unbiased (Szekely and Rizzo 2014, def. 2)."""
    middle = points - points.mean(0)  # changes nothing but rounding
    gram, n = middle @ middle.T, len(points)
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(0) / (n - 2)
    centred = np.asarray(gram - rows[:, None] - rows + gram.sum() / ((n - 1) * (n - 2)))
    np.fill_diagonal(centred, 0.0)
    return centred


def _standard(distances: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    """Ranks as a vector of mean 0 and length 1, so that a product is a correlation; NaN if they are all equal."""
    if not np.ptp(distances) > 1e-12:  # rounding has an order, but means nothing
        return np.full_like(distances, np.nan)
    ranks = rankdata(distances)
    middle = ranks - ranks.mean()
    length = float(np.linalg.norm(middle))
    return middle / length if length > 0 else np.full_like(middle, np.nan)


def _varies(points: Float[np.ndarray, "pair d"], centred: bool) -> bool:
    """Whether there is more to the points than rounding."""
    middle = points - points.mean(0) if centred else points
    return bool(np.linalg.norm(middle) > 8 * np.finfo(float).eps * np.linalg.norm(points))


def _components(points: Float[np.ndarray, "pair d"], width: int, centred: bool) -> Float[np.ndarray, "pair width"]:
    u, s, _ = np.linalg.svd(points - points.mean(0) if centred else points, full_matrices=False)
    return np.asarray(u[:, :width] * s[:width])
