"""Vectors of several models in one computation: said aloud, because nothing in their shape tells."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from xmi.arguments import outside
from xmi.errors import VectorError, XmiWarning
from xmi.session import Session
from xmi.vector.task_vector import TaskVector, VectorCard


def several(given: Sequence[Any], verb: str) -> list[TaskVector]:
    """Vectors that were given one by one or as one list.

    Raises:
        VectorError: Something else than task vectors among them.
    """
    alone = len(given) == 1 and isinstance(given[0], Iterable) and not isinstance(given[0], (str, bytes, TaskVector))
    found = list(given[0]) if alone else list(given)
    for item in found:
        if not isinstance(item, TaskVector):
            more = " Residuals have a mean(), which is one." if hasattr(item, "mean") else ""
            raise VectorError(
                f"{verb} takes task vectors, one by one or in one list; found {type(item).__name__}: {item!r:.60}."
                f"{more}"
            )
    return found


def announce_foreign(vectors: Iterable[TaskVector], session: Session) -> None:
    """Warns of vectors that were read from another model, revision or precision than they are patched into.

    Args:
        vectors: The vectors.
        session: The model; vectors of its kin are meant.
    """
    model, revision, dtype = session.name, session.revision, session.dtype
    here = _named(model, revision, dtype)
    for vector in vectors:
        card = vector.card
        if card.revision == revision and card.dtype != dtype:
            warnings.warn(
                f"{vector.name} was read in {card.dtype}, and {model} runs in {dtype}: its values differ by rounding.",
                XmiWarning,
                stacklevel=outside(),
            )
        elif card.revision != revision and card.revision not in session.kin:
            warnings.warn(
                f"{vector.name} was read from {_name(card)} and is patched into {here}. It has the shape, but another "
                "model need not mean the same by it. If that is what you study, say foreign=True, or compare the two "
                "first (vlm.compare_base); otherwise read it again from this model.",
                XmiWarning,
                stacklevel=outside(),
            )


def announce_mixture(vectors: Sequence[TaskVector], verb: str) -> None:
    """Warns of vectors that were not all read from one model, revision and precision."""
    names = list(dict.fromkeys(_name(v.card) for v in vectors))
    if len(names) > 1:
        warnings.warn(
            f"{verb} was given vectors of {len(names)} models, revisions or precisions: {'; '.join(names)}. Their "
            "residual streams need not have the same directions (for a base LLM: xmi.vector.base_similarity).",
            XmiWarning,
            stacklevel=outside(),
        )


def _name(card: VectorCard) -> str:
    return _named(card.model, card.revision, card.dtype)


def _named(model: str, revision: str, dtype: str) -> str:
    return f"{model} (revision {revision or 'unknown'}, {dtype})"
