"""The geometry of single-prompt task vectors: projections and clusters per layer.

PCA, t-SNE and silhouette come from scikit-learn with fixed seeds; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from xmi.measure.result import Result


@dataclass(frozen=True)
class Projection(Result):
    """Points in the plane, one per prompt and layer.

    Attributes:
        method: `pca` or `tsne`.
        tasks: Task of each point.
        modalities: Modality (or specification) of each point.
        layers: The layers that were projected.
        points: Coordinates. PCA: units of the residual stream; t-SNE: arbitrary units.
        explained: Share of variance on each axis (PCA), NaN for t-SNE.
    """

    method: str
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    layers: tuple[int, ...]
    points: Float[np.ndarray, "layer point 2"]
    explained: Float[np.ndarray, "layer 2"]

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer and point: layer, task, modality, x, y."""
        frames = [
            pd.DataFrame(
                {
                    "layer": layer,
                    "task": self.tasks,
                    "modality": self.modalities,
                    "x": xy[:, 0],
                    "y": xy[:, 1],
                }
            )
            for layer, xy in zip(self.layers, self.points, strict=True)
        ]
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class Silhouette(Result):
    """How well the points cluster by task, and by modality, at each layer.

    Attributes:
        layers: The layers.
        by_task: Mean silhouette (cosine distance) with tasks as clusters, in [-1, 1].
        by_modality: The same with modalities as clusters.
    """

    layers: tuple[int, ...]
    by_task: Float[np.ndarray, " layer"]
    by_modality: Float[np.ndarray, " layer"]

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer: layer, by_task, by_modality."""
        return pd.DataFrame({"layer": self.layers, "by_task": self.by_task, "by_modality": self.by_modality})


def project(
    points: Float[np.ndarray, "point layer d_model"],
    tasks: Sequence[str],
    modalities: Sequence[str],
    *,
    method: str = "pca",
    seed: int = 0,
) -> Projection:
    """Projects the points of each layer into the plane.

    Args:
        points: One residual per prompt and layer.
        tasks: Task of each point.
        modalities: Modality or specification of each point.
        method: `pca` or `tsne` (perplexity 30 or a third of the points, PCA initialisation).
        seed: Seed of t-SNE and of the randomised PCA solver.

    Returns:
        The projection of every layer; layers are projected independently.

    Raises:
        ValueError: Unknown method, or fewer than 3 points.
    """
    values = _checked(points, tasks, modalities, least=3)
    planes, shares = [], []
    for layer in range(values.shape[1]):
        if method == "pca":
            pca = PCA(n_components=2, random_state=seed)
            planes.append(pca.fit_transform(values[:, layer]))
            shares.append(pca.explained_variance_ratio_)
        elif method == "tsne":
            perplexity = min(30.0, (len(values) - 1) / 3)
            tsne = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
            planes.append(tsne.fit_transform(values[:, layer]))
            shares.append(np.full(2, np.nan))
        else:
            raise ValueError(f"Unknown projection {method!r}; use 'pca' or 'tsne'.")
    layers = tuple(range(values.shape[1]))
    return Projection(method, tuple(tasks), tuple(modalities), layers, np.stack(planes), np.stack(shares))


def silhouette(
    points: Float[np.ndarray, "point layer d_model"], tasks: Sequence[str], modalities: Sequence[str]
) -> Silhouette:
    """Silhouette by task and by modality at every layer, with cosine distance.

    Args:
        points: One residual per prompt and layer.
        tasks: Task of each point.
        modalities: Modality of each point.

    Returns:
        The two curves; a curve is NaN where there are fewer than two clusters.

    Source: P. J. Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 1987; scikit-learn's `silhouette_score`.
    """
    values = _checked(points, tasks, modalities, least=3)

    def curve(names: Sequence[str]) -> Float[np.ndarray, " layer"]:
        if not 2 <= len(set(names)) < len(names):
            return np.full(values.shape[1], np.nan)
        return np.array([silhouette_score(values[:, i], list(names), metric="cosine") for i in range(values.shape[1])])

    return Silhouette(tuple(range(values.shape[1])), curve(tasks), curve(modalities))


def _checked(
    points: Float[np.ndarray, "point layer d_model"],
    tasks: Sequence[str],
    modalities: Sequence[str],
    *,
    least: int,
) -> Float[np.ndarray, "point layer d_model"]:
    values = np.asarray(points, dtype=np.float32)
    if values.ndim != 3 or not len(values) == len(tasks) == len(modalities):
        raise ValueError(
            f"Need points [point, layer, d_model] with one task and modality each; got {values.shape}, "
            f"{len(tasks)} tasks, {len(modalities)} modalities."
        )
    if len(values) < least:
        raise ValueError(f"Need at least {least} points, got {len(values)}: extract more prompts.")
    if not np.isfinite(values).all():
        raise ValueError("The points hold NaN or infinite values; check the model's dtype.")
    return values
