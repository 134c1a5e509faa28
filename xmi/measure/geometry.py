"""The geometry of single-prompt task vectors: projections and clusters per layer.

PCA, t-SNE and silhouette come from scikit-learn with fixed seeds; nothing here knows a model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_distances

from xmi.arguments import outside
from xmi.errors import MeasureError, XmiWarning
from xmi.measure.clusters import apart, silhouette_test
from xmi.measure.permutation import PERMUTATIONS, shuffles
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
        p_task: Permutation p-value of `by_task`, corrected for having looked at all layers: task labels exchanged
            within modalities. None if not tested.
        p_modality: The same of `by_modality`: modality labels exchanged within tasks.
    """

    layers: tuple[int, ...]
    by_task: Float[np.ndarray, " layer"]
    by_modality: Float[np.ndarray, " layer"]
    p_task: Float[np.ndarray, " layer"] | None = None
    p_modality: Float[np.ndarray, " layer"] | None = None

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer: layer, by_task, by_modality, and p_task, p_modality if tested."""
        columns = {k: getattr(self, k) for k in ("by_task", "by_modality", "p_task", "p_modality")}
        return pd.DataFrame({"layer": self.layers} | {k: v for k, v in columns.items() if v is not None})


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
        The projection of every layer; layers are projected independently. A layer at which all points are one is NaN.

    Raises:
        MeasureError: Unknown method, fewer than 3 points, or points of fewer than 2 dimensions.

    Examples:
        >>> points = np.random.default_rng(0).normal(size=(8, 2, 5))  # point, layer, d_model
        >>> tasks, modalities = ["capital", "currency"] * 4, ["text"] * 4 + ["image"] * 4
        >>> measure.project(points, tasks, modalities).points.shape  # layer, point, 2
        (2, 8, 2)
    """
    values = checked(points, tasks, modalities, least=3)
    if values.shape[2] < 2:
        raise MeasureError(f"Need points of 2 dimensions or more to project into the plane, got {values.shape[2]}.")
    planes, shares = [], []
    for layer in range(values.shape[1]):
        if method not in ("pca", "tsne"):
            raise MeasureError(f"Unknown projection {method!r}; use 'pca' or 'tsne'.")
        if not np.ptp(values[:, layer], axis=0).any():  # there is nothing to project
            planes.append(np.full((len(values), 2), np.nan))
            shares.append(np.full(2, np.nan))
        elif method == "pca":
            pca = PCA(n_components=2, random_state=seed)
            planes.append(pca.fit_transform(values[:, layer]))
            shares.append(pca.explained_variance_ratio_)
        else:
            perplexity = min(30.0, (len(values) - 1) / 3)
            tsne = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
            planes.append(tsne.fit_transform(values[:, layer]))
            shares.append(np.full(2, np.nan))
    layers = tuple(range(values.shape[1]))
    return Projection(method, tuple(tasks), tuple(modalities), layers, np.stack(planes), np.stack(shares))


def silhouette(
    points: Float[np.ndarray, "point layer d_model"],
    tasks: Sequence[str],
    modalities: Sequence[str],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Silhouette:
    """Silhouette by task and by modality at every layer, with cosine distance.

    Args:
        points: One residual per prompt and layer.
        tasks: Task of each point.
        modalities: Modality of each point.
        permutations: Random exchanges of labels for the p-values, the observed one counted too; 0 for none.
        seed: Seed of the exchanges.

    Returns:
        The two curves and their p-values. A curve is NaN where there are fewer than two clusters, at layers where all
        points are one, and at layers where a point is zero, which then has no direction (with a warning).

    Source: P. J. Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 1987; scikit-learn's `silhouette_score`.

    Examples:
        >>> points = np.random.default_rng(0).normal(size=(8, 2, 5))  # point, layer, d_model
        >>> tasks, modalities = ["capital", "currency"] * 4, ["text"] * 4 + ["image"] * 4
        >>> measure.silhouette(points, tasks, modalities, permutations=99).by_task.round(2)
        array([-0.04,  0.07])
    """
    values = checked(points, tasks, modalities, least=3)
    layers = range(values.shape[1])
    announce_zeros(values)
    distances = np.stack([cosine_distances(values[:, i]) for i in layers])
    distances[~values.any(-1).all(0)] = np.nan
    known = [apart(square) for square in distances]
    rng = np.random.default_rng(seed)

    def curve(
        names: Sequence[str], strata: Sequence[str]
    ) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"] | None]:
        nothing = np.full(len(layers), np.nan)
        if not 2 <= len(set(names)) < len(names):
            return nothing, nothing if permutations else None
        scores = (silhouette_score(values[:, i], list(names), metric="cosine") if known[i] else np.nan for i in layers)
        found = np.array(list(scores))
        if not permutations:
            return found, None
        labels = np.unique(list(names), return_inverse=True)[1]
        return found, silhouette_test(distances, labels, shuffles(strata, permutations, rng)).corrected

    (by_task, p_task), (by_modality, p_modality) = curve(tasks, modalities), curve(modalities, tasks)
    return Silhouette(tuple(layers), by_task, by_modality, p_task, p_modality)


def announce_zeros(values: Float[np.ndarray, "point layer d_model"]) -> None:
    """Warns of points that are zero at some layer, and so have no cosine."""
    zeros = np.argwhere((values == 0).all(-1))
    if len(zeros):
        point, layer = zeros[0]
        warnings.warn(
            f"{len(np.unique(zeros[:, 0]))} of {len(values)} points are zero at some layer (the first is point {point} "
            f"at layer {layer}) and have no direction: what is made of cosines is NaN at these layers.",
            XmiWarning,
            stacklevel=outside(),
        )


def checked(
    points: Float[np.ndarray, "point layer d_model"],
    tasks: Sequence[str],
    modalities: Sequence[str],
    *,
    least: int,
) -> Float[np.ndarray, "point layer d_model"]:
    """Returns the points as float32.

    Raises:
        MeasureError: They are not a finite array [point, layer, d_model] with a task and a modality each, or too few.
    """
    values = np.asarray(points, dtype=np.float32)
    if values.ndim != 3 or not len(values) == len(tasks) == len(modalities):
        raise MeasureError(
            f"Need points [point, layer, d_model] with one task and modality each; got {values.shape}, "
            f"{len(tasks)} tasks, {len(modalities)} modalities."
        )
    if len(values) < least:
        raise MeasureError(f"Need at least {least} points, got {len(values)}: extract more prompts.")
    if not np.isfinite(values).all():
        raise MeasureError("The points hold NaN or infinite values; check the model's dtype.")
    return values
