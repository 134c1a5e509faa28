"""Cosine similarity of task vectors, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.measure.result import Result


@dataclass(frozen=True)
class Similarity(Result):
    """Pairwise cosine similarity of named vectors at each layer.

    Attributes:
        labels: Name of each vector.
        groups: A group of each vector (its task, say); pairs are compared within and across groups.
        values: Cosines, in [-1, 1].
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
        """Returns per layer the mean cosine of pairs of the same group and of pairs of different groups."""
        frame = self.to_frame()
        kind = np.where(frame["group_a"] == frame["group_b"], "same", "different")
        return frame.groupby(["layer", kind])["cosine"].mean().unstack().rename_axis(columns=None).reset_index()


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
        The similarities. A zero vector has cosine 0 with everything.
    """
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 3 or len(labels) != points.shape[0]:
        raise ValueError(
            f"Need one label per vector [vector, layer, d_model]; got {points.shape}, {len(labels)} labels."
        )
    if centred:
        points = points - points.mean(axis=0, keepdims=True)
    norms = np.linalg.norm(points, axis=-1, keepdims=True)
    unit = np.divide(points, norms, out=np.zeros_like(points), where=norms > 0)
    values = np.clip(np.einsum("ild,jld->lij", unit, unit), -1.0, 1.0)
    return Similarity(tuple(labels), tuple(groups if groups is not None else labels), values, centred)
