"""The geometry of a model's vectors, from the first seed: similarity, projections, silhouette, alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from xmi.measure import Result, alignment, cosine_per_layer, project, silhouette
from xmi.names import MODALITIES, SPECIFICATIONS, label_of
from xmi.prompt import Task
from xmi.study.cell import CellResult
from xmi.study.experiments.experiment import Experiment, Given, Inputs
from xmi.study.experiments.vectors import BaseVectors, Vectors, single_points
from xmi.study.plan import Plan
from xmi.vector import TaskVector

if TYPE_CHECKING:
    from xmi.study.grid import Cell
    from xmi.study.store import Stored


class Geometry(Experiment):
    """Compares what was read with the first seed; no model is asked."""

    kind = "geometry"
    takes = (BaseVectors.kind, Vectors.kind)

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Measures similarity, projections, silhouette and alignment."""
        tasks = inputs.tasks
        points = {
            tasks[other.task].name: single_points(stored)
            for other, stored in inputs.taken.items()
            if other.task is not None
        }
        return CellResult(result=geometry({tasks[name].name: own for name, own in inputs.vectors().items()}, points))

    def gives(self, found: Mapping[Cell, Stored], plan: Plan, tasks: Mapping[str, Task]) -> Given:
        """Its results, by their own names."""
        (stored,) = self.own(found).values()
        return Given(stored.measured["result"])


def geometry(
    vectors: Mapping[str, Mapping[str, TaskVector]],
    points: Mapping[str, Mapping[str, Float[np.ndarray, "prompt layer d_model"]]],
) -> dict[str, Result]:
    """Similarity of the task vectors and the geometry of single-prompt vectors.

    Args:
        vectors: Task vectors by task and source.
        points: Single-prompt vectors by task and modality.

    Returns:
        Results by name.
    """
    shown = [(task, s, own[s].values.numpy()) for s in SPECIFICATIONS for task, own in vectors.items() if s in own]
    labels, groups = [label_of(task, source) for task, source, _ in shown], [task for task, _, _ in shown]
    stack = np.stack([values for _, _, values in shown])
    each = [(task, m, own[m]) for task, own in points.items() for m in MODALITIES if m in own]
    cloud = np.concatenate([values for _, _, values in each])
    tasks = [task for task, _, values in each for _ in values]
    modalities = [modality for _, modality, values in each for _ in values]
    several = len(points) > 1 and len(set(modalities)) > 1
    together = {"alignment": alignment(cloud, tasks, modalities)} if several else {}
    return together | {
        "similarity": cosine_per_layer(stack, labels, groups),
        "similarity.centred": cosine_per_layer(stack, labels, groups, centred=True),
        "projection.pca": project(cloud, tasks, modalities, method="pca"),
        "projection.tsne": project(cloud, tasks, modalities, method="tsne"),
        "silhouette": silhouette(cloud, tasks, modalities),
    }


EXPERIMENTS = (Geometry(),)
