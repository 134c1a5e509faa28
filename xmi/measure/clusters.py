"""Cosines of pairs and nearest centroids, under many labellings of the same points at once.

Everything follows from the Gram matrix of the points at unit length: a relabelling only adds up other entries of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from xmi.measure.permutation import Tested, p_values

Labels = Int[np.ndarray, " point"]

CHUNK = 2**19
"""Sums that are held at a time: as many as a core's own memory takes."""


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
    sizes, n = np.bincount(labels), len(labels)
    hits, within = [], []
    for own, sums, at in _labellings(gram, labels, shuffled):
        mine, cell = sums[at], np.arange(len(own))[:, None] * len(sizes) + own
        squares = np.bincount(cell.ravel(), mine.ravel(), sums.shape[0] * len(sizes)).reshape(sums.shape[:2])
        within.append(squares.sum(1) - np.trace(gram))  # `squares`: squared length of each label's sum
        if sizes.min() < 2:
            hits.append(np.full(len(own), np.nan))
            continue
        fewer = sizes[own] - 1
        apart = squares[np.arange(len(own))[:, None], own] - 2 * mine + np.diag(gram)
        sums /= sizes[:, None]
        sums -= (squares / (2.0 * sizes**2))[..., None]
        sums[at] = (mine - np.diag(gram)) / fewer - apart / (2.0 * fewer**2)
        hits.append((sums.argmax(1) == own).sum(1) / n)
    return np.concatenate(hits), np.concatenate(within)


def _labellings(
    square: Float[np.ndarray, "point point"], labels: Labels, shuffled: Int[np.ndarray, "permutation point"]
) -> Iterator[tuple[Int[np.ndarray, "some point"], Float[np.ndarray, "some label point"], tuple[np.ndarray, ...]]]:
    """A few labellings at a time: labels, sums of the entries of each label's points, and where a point's own stand.

    Sums are made of the entries that they consist of, so that their cost does not grow with the number of labels.
    """
    sizes, n = np.bincount(labels), len(labels)
    step = max(1, CHUNK // (n * len(sizes)))
    for start in range(0, len(shuffled), step):
        own = labels[shuffled[start : start + step]]
        rows = len(own) * len(sizes)
        ends = np.concatenate([[0], np.cumsum(np.tile(sizes, len(own)))])
        members = np.argsort(own, axis=1, kind="stable").ravel()
        sums = csr_array((np.ones(own.size, square.dtype), members, ends), shape=(rows, n)) @ square
        at = np.arange(len(own))[:, None], own, np.arange(n)
        yield own, sums.reshape(len(own), len(sizes), n), at


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
    sizes, found = np.bincount(labels), []
    for square in distances.astype(np.float32):
        if not apart(square):
            found.append(np.full(len(shuffled), np.nan))
            continue
        means = []
        for own, sums, at in _labellings(square, labels, shuffled):
            inner = sums[at] / np.maximum(sizes[own] - 1, 1).astype(np.float32)
            sums /= sizes[:, None].astype(np.float32)
            sums[at] = np.inf
            outer = sums.min(1)
            larger, alone = np.maximum(inner, outer), sizes[own] == 1
            share = np.divide(outer - inner, larger, out=np.zeros_like(outer), where=(larger > 0) & ~alone)
            means.append(share.mean(1, dtype=float))
        found.append(np.concatenate(means))
    return p_values(np.stack(found, axis=1))
