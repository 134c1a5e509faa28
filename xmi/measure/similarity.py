"""Cosine similarity of task vectors, layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from xmi.arguments import outside
from xmi.errors import MeasureError, VectorError, XmiWarning
from xmi.measure.result import Result


@dataclass(frozen=True)
class Similarity(Result):
    """Pairwise cosine similarity of named vectors at each layer.

    Attributes:
        labels: Name of each vector.
        groups: A group of each vector (its task, say); pairs are compared within and across groups.
        values: Cosines, in [-1, 1]; NaN where one of the two vectors is zero.
        centred: Whether the mean over all vectors was subtracted at each layer first.
    """

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    values: Float[np.ndarray, "layer vector vector"]
    centred: bool = False

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer and pair: layer, a, b, group_a, group_b, cosine."""
        rows = [
            (
                layer,
                self.labels[i],
                self.labels[j],
                self.groups[i],
                self.groups[j],
                float(self.values[layer, i, j]),
            )
            for layer in range(self.values.shape[0])
            for i in range(len(self.labels))
            for j in range(i)
        ]
        return pd.DataFrame(rows, columns=["layer", "a", "b", "group_a", "group_b", "cosine"])

    def within_and_across(self) -> pd.DataFrame:
        """Returns per layer the mean cosine of pairs of the same group and of pairs of different groups.

        A mean is NaN where one of its cosines is.
        """
        frame = self.to_frame()
        kind = np.where(frame["group_a"] == frame["group_b"], "same", "different")
        groups = frame.groupby(["layer", kind])["cosine"]
        means = groups.mean().where(groups.count() == groups.size())  # pandas would leave NaN out
        return means.unstack().rename_axis(columns=None).reset_index()


def cosine_per_layer(
    vectors: Float[np.ndarray, "vector layer d_model"],
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    centred: bool = False,
) -> Similarity:
    """Cosine similarity between all pairs of vectors at every layer.

    Args:
        vectors: The vectors, all layers.
        labels: One name per vector.
        groups: One group per vector; by default every vector is its own group.
        centred: Subtract the mean over the vectors first. Residual streams share a large common direction, which
            inflates raw cosines; centring removes it.

    Returns:
        The similarities. A vector that is zero at a layer (or, centred, nothing but the mean) has no direction: its
        cosines there are NaN, itself included, with a warning that names it.

    Raises:
        MeasureError: The vectors have another shape, or not one label and group each.
        VectorError: NaN or infinite values; the vectors and layers are named.

    Examples:
        >>> points = np.random.default_rng(0).normal(size=(3, 2, 8))  # vector, layer, d_model
        >>> measure.cosine_per_layer(points, ["a", "b", "c"]).values.shape  # layer, vector, vector
        (2, 3, 3)
    """
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 3 or len(labels) != points.shape[0]:
        raise MeasureError(
            f"Need one label per vector [vector, layer, d_model]; got {points.shape}, {len(labels)} labels."
        )
    if groups is not None and len(groups) != len(labels):
        raise MeasureError(f"Need one group per vector; got {len(groups)} groups of {len(labels)} vectors.")
    bad = np.asarray(~np.isfinite(points).all(-1))
    if bad.any():
        raise VectorError(f"NaN or infinite values in {_places(bad, labels)}: check the dtype they were read in.")
    points, largest = _scaled(points, (0, 2))
    if centred:
        points = points - points.mean(axis=0, keepdims=True)
    size = np.abs(points).max(-1, initial=0.0, keepdims=True)
    points, _ = _scaled(points, (2,))
    norms = np.linalg.norm(points, axis=-1, keepdims=True)
    # What is left of equal vectors when their mean is subtracted is rounding.
    none = np.asarray(size <= 8 * np.finfo(float).eps * largest if centred else size == 0)
    if none.any():
        zero = "nothing is left when the mean of all is subtracted" if centred else "a zero vector"
        warnings.warn(
            f"{_places(none[..., 0], labels)}: {zero}. It has no direction, so its cosines are NaN.",
            XmiWarning,
            stacklevel=outside(),
        )
    unit = np.divide(points, norms, out=np.full_like(points, np.nan), where=~none)
    values = np.clip(np.einsum("ild,jld->lij", unit, unit), -1.0, 1.0)
    return Similarity(tuple(labels), tuple(groups if groups is not None else labels), values, centred)


def _scaled(
    points: Float[np.ndarray, "vector layer d_model"], axes: tuple[int, ...]
) -> tuple[Float[np.ndarray, "vector layer d_model"], Float[np.ndarray, ...]]:
    """The points, divided by their largest number where squares would be infinite or zero; and what is largest then."""
    size = np.abs(points).max(axes, initial=0.0, keepdims=True)
    extreme = np.broadcast_to((size > 1e150) | ((size > 0) & (size < 1e-150)), points.shape)
    scaled = np.divide(points, size, out=points.copy(), where=extreme)
    return scaled, np.abs(scaled).max(axes, initial=0.0, keepdims=True)


def _places(which: Bool[np.ndarray, "vector layer"], labels: Sequence[str]) -> str:
    """Some vectors and their layers, in words."""
    names = [f"{labels[i]!r} at layers {np.flatnonzero(row).tolist()}" for i, row in enumerate(which) if row.any()]
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
