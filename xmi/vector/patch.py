"""Patching task vectors into queries, after every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch

from xmi.answer import announce_ties, answers_of, asked_of, first_of_labels, how_many, scored
from xmi.errors import HookError, VectorError
from xmi.measure import Transfer
from xmi.model import from_end
from xmi.prompt import Batch, PromptLike, check_room
from xmi.session import Session
from xmi.vector.foreign import announce_foreign
from xmi.vector.sweep import Patch, sweep
from xmi.vector.task_vector import TaskVector, check_fits


def transfer(
    session: Session,
    vectors: TaskVector | Sequence[TaskVector] | Mapping[str, TaskVector],
    to: PromptLike,
    *,
    layers: Sequence[int] | None = None,
    slot: str = "last",
    mode: str = "overwrite",
    strength: float = 1.0,
    max_new_tokens: int | None = None,
    foreign: bool = False,
) -> Transfer:
    """Patches vectors into queries, after every layer: by default into the last token of context-free ones.

    All vectors and layers of a batch, and the clean run, share as few forwards as their tokens fit in (the packed
    sweep), exactly equal to patching each apart. The first time that is compared with plain runs; a model on which
    it does not hold (attention that is not causal, linear attention, convolutions between tokens) gets a row for
    every patched run instead, with a warning.

    Args:
        vectors: One vector, several (named by their specification), or a mapping from name to vector.
        to: The queries; those without a label are answered, but have no part in accuracies.
        layers: After which blocks to patch, by number (-1 is the last); by default all. Source and target layer are
            the same.
        slot: Where to patch: a named position, by default the last token.
        mode: `overwrite` the residual, `add` (residual + strength * vector), or `interpolate` ((1 - strength) *
            residual + strength * vector).
        strength: See `mode`.
        max_new_tokens: How many tokens to read, greedily, every new one with the patch in place; then
            `continuations` holds the texts and `accuracy(score="whole")` scores whole labels. By default one, and
            no texts.
        foreign: Vectors of another model (its base LLM, say) are meant. Otherwise they are patched with a warning
            that names both, unless the models were compared (`compare_base`).

    Returns:
        The answers of every source at every layer, and without a patch.

    Raises:
        VectorError: A vector of another shape or template, or with NaN; two vectors of one name; no or unknown
            layers; an unknown mode.
        SlotError: A query lacks the slot.

    Source: Luo, Darrell and Bar, ICML 2025, section 3 (xPatch).

    Examples:
        >>> vector = vlm.task_vector(task.icl("text"))
        >>> sweep = vlm.transfer(vector, to=task.queries("image"))
        >>> sweep.log_probability.shape  # source, layer, query
        (1, 8, 19)
        >>> sweep.best_layer, sweep.accuracy().mean
        (3, 1.0)
    """
    named = name_vectors(vectors)
    with session.prepared(to, "patching") as (several, batches):
        backbone, encoder = session.backbone, session.encoder
        for vector in named.values():
            fit = {"n_layers": backbone.n_layers, "d_model": backbone.d_model}
            check_fits(vector, template=several.template.hash, model=session.name, **fit)
        if not foreign:
            announce_foreign(named.values(), session)
        new, chosen = how_many(max_new_tokens), layers_of(layers, backbone.n_layers)
        patch = Patch(torch.stack([v.values[list(chosen)] for v in named.values()]), chosen, slot, mode, strength)

        def swept(batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = sweep(session, batch, patch, targets, new)
            return found.ids, found.log_probability, found.rank, targets

        def sweeps() -> Iterator[Callable[[], tuple[torch.Tensor, ...]]]:
            for batch in batches:
                check_room(batch, new, encoder.max_length)
                yield partial(swept, batch, first_of_labels(encoder, batch.prompts, several.template))

        rows = session.engine.together(sweeps())
    ids, log_probability, rank, wanted = (torch.cat(column) for column in zip(*rows, strict=True))
    longer = max_new_tokens is not None
    clean = answers_of(encoder, several, ids[:, 0], log_probability[:, 0], rank[:, 0], wanted, longer=longer)
    shape = (len(several), len(named), len(chosen))
    log_probability, rank = (v[:, 1:].reshape(shape).permute(1, 2, 0) for v in (log_probability, rank))
    ids = ids[:, 1:].reshape(*shape, -1).permute(1, 2, 0, 3)
    found = Transfer(
        sources=tuple(named),
        layers=chosen,
        **asked_of(several),
        **scored(encoder, several, ids, log_probability, rank, wanted, longer=longer),
        clean=clean,
    )
    announce_ties(found)
    return found


def name_vectors(vectors: TaskVector | Sequence[TaskVector] | Mapping[str, TaskVector]) -> dict[str, TaskVector]:
    """Names vectors by their specification, or as the mapping says.

    Raises:
        VectorError: No vectors, or two of one name.
    """
    if isinstance(vectors, TaskVector):
        vectors = [vectors]
    if isinstance(vectors, Mapping):
        named = dict(vectors)
    else:
        names = [v.card.specification for v in vectors]
        named = dict(zip(names, vectors, strict=True))
        if len(named) < len(names):
            raise VectorError(f"Several vectors share a name ({', '.join(names)}): pass a mapping {{name: vector}}.")
    if not named:
        raise VectorError("There are no vectors to transfer.")
    return named


def layers_of(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Numbers of the layers that are meant, of so many.

    Raises:
        VectorError: None, one twice, or one that there is not.
    """
    if layers is None:
        return tuple(range(count))
    try:
        chosen = tuple(from_end(layer, count) for layer in layers)
    except (TypeError, HookError):
        chosen = ()
    if not chosen or len(set(chosen)) < len(chosen):
        raise VectorError(
            f"Cannot patch layers {layers!r}: give a list of distinct layers from 0 to {count - 1}, or, counted from "
            f"the end, from -1 to {-count}."
        )
    return chosen
