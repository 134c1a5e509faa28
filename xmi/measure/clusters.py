"""Cosines of pairs and nearest centroids, under many labellings of the same points at once.

Everything follows from the Gram matrix of the points at unit length: a relabelling only adds up other entries of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from xmi.measure.permutation import Tested, p_values

Labels = Int[np.ndarray, " point"]


def unit_length(points: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
    """Returns the points scaled to length 1; a zero vector has no direction and becomes NaN."""
    norms = np.linalg.norm(points, axis=-1, keepdims=True)
    return np.asarray(np.divide(points, norms, out=np.full_like(points, np.nan), where=norms > 0))


def centroid_votes(
    unit: Float[np.ndarray, "point d"], labels: Labels, others: Float[np.ndarray, "other d"], other_labels: Labels
) -> Int[np.ndarray, "task centroid"]:
    """Counts to which centroid of `unit` the others lie nearest.

    Args:
        unit: Points of unit length that make the centroids, each label having some.
        labels: Their labels, 0 to T - 1.
        others: Points of unit length to classify.
        other_labels: Their own labels.

    Returns:
        Counts by own label and label of the nearest centroid (Euclidean, as in scikit-learn's `NearestCentroid`).
    """
    count = labels.max() + 1
    centroids = np.stack([unit[labels == t].mean(0) for t in range(count)])
    nearest = (others @ centroids.T - (centroids**2).sum(1) / 2).argmax(1)
    votes = np.zeros((count, count), dtype=int)
    np.add.at(votes, (other_labels, nearest), 1)
    return votes


def left_out_hits(
    gram: Float[np.ndarray, "point point"], labels: Labels, shuffled: Int[np.ndarray, "permutation point"]
) -> tuple[Float[np.ndarray, " permutation"], Float[np.ndarray, " permutation"]]:
    """Nearest-centroid accuracy with each point left out in turn, and the mean cosine within labels.

    Args:
        gram: Products of points of unit length.
        labels: Their labels, 0 to T - 1.
        shuffled: For each labelling the point whose label each point gets.

    Returns:
        Under each labelling the share of points whose nearest centroid (made without the point) is their own label's,
        NaN if a label has a single point; and the sum of cosines of pairs of one label, each pair counted twice.
    """
    sizes = np.bincount(labels)
    n, count, tries = len(labels), len(sizes), len(shuffled)
    own = labels[shuffled.T]  # [point, permutation]
    chosen = own[..., None] == np.arange(count)
    sums = (gram @ chosen.reshape(n, -1).astype(gram.dtype)).reshape(n, tries, count)
    squares = np.where(chosen, sums, 0).sum(0)  # squared length of each sum
    within = squares.sum(1) - np.trace(gram)
    if sizes.min() < 2:
        return np.full(tries, np.nan), within
    at = (np.arange(n)[:, None], np.arange(tries), own)
    self_product, mine = np.diag(gram)[:, None], sums[at]
    fewer = sizes[own] - 1
    apart = squares[np.arange(tries), own] - 2 * mine + self_product
    scores = sums / sizes - squares / (2.0 * sizes**2)
    scores[at] = (mine - self_product) / fewer - apart / (2.0 * fewer**2)
    return (scores.argmax(-1) == own).mean(0), within


def pair_means(
    gram: Float[np.ndarray, "left right"],
    alike: Bool[np.ndarray, "left right"],
    counted: Bool[np.ndarray, "left right"],
    left: Float[np.ndarray, "left resample"],
    right: Float[np.ndarray, "right resample"],
) -> Float[np.ndarray, "3 resample"]:
    """Mean cosine of pairs alike, of pairs unlike, and the difference, under weights of the points.

    Args:
        gram: Cosines of all pairs.
        alike: Pairs of the same label.
        counted: Pairs that count (a point makes no pair with itself).
        left: Weights of the points of the rows.
        right: Weights of the points of the columns.

    Returns:
        The three means; NaN where there is no such pair.
    """
    means = []
    for mask in (alike & counted, ~alike & counted):
        weights = (left * (mask.astype(float) @ right)).sum(0)
        sums = (left * ((gram * mask) @ right)).sum(0)
        means.append(np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0))
    return np.stack([*means, means[0] - means[1]])


def apart(distances: Float[np.ndarray, "point point"]) -> bool:
    """Whether some points are further from each other than rounding of single precision; not if one is NaN."""
    return bool(np.isfinite(distances).all() and distances.max(initial=0.0) > 1e-6)


def silhouette_test(
    distances: Float[np.ndarray, "layer point point"], labels: Labels, shuffled: Int[np.ndarray, "permutation point"]
) -> Tested:
    """Permutation test of the mean silhouette at every layer.

    Args:
        distances: Distances of all pairs of points.
        labels: Cluster of each point, 0 to T - 1.
        shuffled: For each labelling the point whose label each point gets; the given labels first.

    Returns:
        P-values per layer; NaN where a distance is, or where all are zero.
    """
    sizes = np.bincount(labels)
    n, tries, count = len(labels), len(shuffled), len(sizes)
    own = labels[shuffled.T]
    chosen = (own[..., None] == np.arange(count)).reshape(n, -1).astype(np.float32)
    at = (np.arange(n)[:, None], np.arange(tries), own)
    alone = sizes[own] == 1
    found = []
    for square in distances.astype(np.float32):
        if not apart(square):
            found.append(np.full(tries, np.nan))
            continue
        sums = (square @ chosen).reshape(n, tries, count)
        inner = sums[at] / np.maximum(sizes[own] - 1, 1)
        sums /= sizes.astype(np.float32)
        sums[at] = np.inf
        outer = sums.min(-1)
        larger = np.maximum(inner, outer)
        share = np.divide(outer - inner, larger, out=np.zeros_like(outer), where=(larger > 0) & ~alone)
        found.append(share.mean(0, dtype=float))
    return p_values(np.stack(found, axis=1))
