"""Comparing task vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xmi.errors import VectorError
from xmi.measure import Similarity, cosine_per_layer
from xmi.vector.task_vector import TaskVector


def similarity(vectors: Sequence[TaskVector], *, centred: bool = False) -> Similarity:
    """Cosine similarity between task vectors at every layer.

    Args:
        vectors: At least two vectors of one shape.
        centred: Subtract the mean over the vectors first, which removes the direction that all share.

    Returns:
        Cosines [layer, vector, vector]; the groups are the tasks.

    Raises:
        VectorError: Fewer than two vectors, or different shapes.
    """
    shapes = {tuple(v.values.shape) for v in vectors}
    if len(vectors) < 2 or len(shapes) > 1:
        raise VectorError(
            f"similarity needs two or more vectors of one shape; got {len(vectors)} of shapes {sorted(shapes)}."
        )
    values = torch.stack([v.values for v in vectors]).numpy()
    return cosine_per_layer(values, [v.name for v in vectors], [v.card.task for v in vectors], centred=centred)
