"""Averaging and comparing task vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from xmi.errors import VectorError
from xmi.measure import Similarity, cosine_per_layer
from xmi.names import mean_of
from xmi.vector.foreign import announce_mixture, several
from xmi.vector.task_vector import TaskVector, check_finite


def ensemble(*vectors: TaskVector | Iterable[TaskVector]) -> TaskVector:
    """The mean of vectors of one task from several specifications (Luo, Darrell and Bar, ICML 2025, section 5).

    Args:
        vectors: At least two vectors of the same task, width, depth and template, one by one or in one list. Vectors of
            several models are averaged with a warning; the card names all models.

    Returns:
        Their mean; its specification names all of theirs.

    Raises:
        VectorError: Fewer than two vectors, something else than vectors, vectors of different tasks, shapes or
            templates, or with NaN.

    Examples:
        >>> text, image = (vlm.task_vector(task.icl(kind)) for kind in ("text", "image"))
        >>> both = xmi.ensemble(text, image)
        >>> both.name, both.values.shape
        ('country-capital · text ICL + image ICL', torch.Size([8, 128]))
    """
    found = several(vectors, "ensemble")
    if len(found) < 2:
        raise VectorError("An ensemble needs at least two vectors.")
    first = found[0]
    for other in found[1:]:
        if other.values.shape != first.values.shape or other.card.task != first.card.task:
            raise VectorError(
                f"Cannot average {first.name} {tuple(first.values.shape)} with {other.name} "
                f"{tuple(other.values.shape)}: an ensemble needs one task and one shape."
            )
        if other.card.template != first.card.template:
            raise VectorError(
                f"Cannot average {first.name}, read with prompt template {first.card.template}, with {other.name}, "
                f"read with {other.card.template}: no query has both."
            )
    for vector in found:
        check_finite(vector)
    announce_mixture(found, "ensemble")
    joined = {k: " + ".join(dict.fromkeys(getattr(v.card, k) for v in found)) for k in ("model", "revision", "dtype")}
    name = mean_of(*(v.card.specification for v in found))
    card = first.card.model_copy(update={"specification": name, "n": sum(v.card.n for v in found), **joined})
    return TaskVector(torch.stack([v.values for v in found]).mean(0), card)


def similarity(
    *vectors: TaskVector | Iterable[TaskVector] | Mapping[str, TaskVector], centred: bool = False
) -> Similarity:
    """Cosine similarity between task vectors at every layer.

    Args:
        vectors: At least two vectors of one shape, one by one, in one list, or in a mapping from name to vector.
            Vectors of several models are compared with a warning.
        centred: Subtract the mean over the vectors first, which removes the direction that all share.

    Returns:
        Cosines [layer, vector, vector]; the groups are the tasks. A vector that is zero at a layer has no direction:
        its cosines there are NaN, with a warning that names it.

    Raises:
        VectorError: Fewer than two vectors, something else than vectors, different shapes, or NaN or infinite values.

    Examples:
        >>> text, image = (vlm.task_vector(task.icl(kind)) for kind in ("text", "image"))
        >>> found = xmi.similarity(text, image)
        >>> found.values.shape  # layer, vector, vector
        (8, 2, 2)
        >>> found.values[4, 0, 1].round(2)
        np.float64(0.99)
    """
    names: list[str] | None = None
    if len(vectors) == 1 and isinstance(vectors[0], Mapping):
        names, vectors = list(vectors[0]), (list(vectors[0].values()),)
    found = several(vectors, "similarity")
    shapes = {tuple(v.values.shape) for v in found}
    if len(found) < 2 or len(shapes) > 1:
        raise VectorError(
            f"similarity needs two or more vectors of one shape; got {len(found)} of shapes {sorted(shapes)}."
        )
    for vector in found:
        check_finite(vector)
    announce_mixture(found, "similarity")
    values = torch.stack([v.values for v in found]).numpy()
    return cosine_per_layer(values, names or [v.name for v in found], [v.card.task for v in found], centred=centred)
