"""Patching task vectors into queries, and the answers without a patch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from xmi.arguments import outside
from xmi.errors import HookError, VectorError, XmiWarning
from xmi.kernels import next_token_kernel
from xmi.measure import Answers, Transfer, paper_hit
from xmi.measure.answers import rivals_of
from xmi.model import Engine, from_end
from xmi.prompt import Batch, Encoder, Prompt, Prompts, Template, check_room, new_tokens
from xmi.vector.foreign import announce_foreign
from xmi.vector.sweep import Patch, Swept, sweep
from xmi.vector.task_vector import TaskVector, check_fits


def answer(
    engine: Engine,
    encoder: Encoder,
    prompts: Prompts,
    batches: Iterable[Batch],
    max_new_tokens: int | None = None,
) -> Answers:
    """The next tokens after each prompt; see `VLM.answers`."""
    new, wanted = _tokens(max_new_tokens), []

    def arguments() -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            check_room(batch, new, encoder.max_length)
            wanted.append(_targets(encoder, batch.prompts, prompts.template))
            yield engine.forward(batch.inputs), wanted[-1], new

    said = engine.map(next_token_kernel, arguments())
    return score_answers(encoder, prompts, said, wanted, max_new_tokens)


def score_answers(
    encoder: Encoder,
    prompts: Prompts,
    said: Sequence[tuple[torch.Tensor, ...]],
    wanted: Sequence[torch.Tensor],
    max_new_tokens: int | None,
) -> Answers:
    """Scores next tokens that were read.

    Args:
        encoder: The model's.
        prompts: What was asked.
        said: What `next_token_kernel` gave for each batch.
        wanted: The answer's first token in each row of each batch.
        max_new_tokens: How many tokens were asked for; None for one, and no texts.
    """
    values = (torch.cat(column) for column in zip(*said, strict=True))
    found = _answers(encoder, prompts, *values, torch.cat(list(wanted)), longer=max_new_tokens is not None)
    _announce_ties(found)
    return found


def transfer(
    engine: Engine,
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    to: Prompts,
    batches: Iterable[Batch],
    layers: Sequence[int] | None,
    *,
    slot: str = "last",
    mode: str = "overwrite",
    strength: float = 1.0,
    max_new_tokens: int | None = None,
    kin: Collection[str] | None = (),
) -> Transfer:
    """Every vector at every layer into every query; see `VLM.transfer`.

    `kin` holds revisions of other models whose vectors are meant; None if all are.
    """
    backbone, name = engine.backbone, engine.checkpoint.name
    for vector in vectors.values():
        fit = {"n_layers": backbone.n_layers, "d_model": backbone.d_model}
        check_fits(vector, template=to.template.hash, model=name, **fit)
    if kin is not None:
        announce_foreign(vectors.values(), engine, kin)
    new = _tokens(max_new_tokens)
    chosen = _layers(layers, backbone.n_layers)
    patch = Patch(torch.stack([v.values[list(chosen)] for v in vectors.values()]), chosen, slot, mode, strength)
    targets: list[torch.Tensor] = []

    def sweeps() -> Iterator[Callable[[], Swept]]:
        for batch in batches:
            check_room(batch, new, encoder.max_length)
            targets.append(_targets(encoder, batch.prompts, to.template))
            yield partial(sweep, engine, encoder, batch, patch, targets[-1], new)

    rows = [(found.ids, found.log_probability, found.rank) for found in engine.together(sweeps())]
    (ids, log_probability, rank), wanted = (torch.cat(column) for column in zip(*rows, strict=True)), torch.cat(targets)
    longer = max_new_tokens is not None
    clean = _answers(encoder, to, ids[:, 0], log_probability[:, 0], rank[:, 0], wanted, longer=longer)
    shape = (len(to), len(vectors), len(chosen))
    log_probability, rank = (v[:, 1:].reshape(shape).permute(1, 2, 0) for v in (log_probability, rank))
    ids = ids[:, 1:].reshape(*shape, -1).permute(1, 2, 0, 3)
    found = Transfer(
        sources=tuple(vectors),
        layers=chosen,
        **_asked(to),
        **_scored(encoder, to, ids, log_probability, rank, wanted, longer=longer),
        clean=clean,
    )
    _announce_ties(found)
    return found


def _tokens(asked: int | None) -> int:
    return 1 if asked is None else new_tokens(asked)


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


def _targets(encoder: Encoder, prompts: Sequence[Prompt], template: Template) -> Int[torch.Tensor, " prompt"]:
    """The first token of each prompt's label; where there is no label, any token, whose numbers are not kept."""
    labelled = [p for p in prompts if p.answer]
    ids = iter(encoder.answer_ids(labelled, template).tolist())
    return torch.tensor([next(ids) if p.answer else 0 for p in prompts])


def _answers(encoder: Encoder, prompts: Prompts, *values: torch.Tensor, longer: bool = False) -> Answers:
    """From ids [prompt, new], log-probabilities, ranks and wanted ids, each [prompt], to scored answers."""
    return Answers(
        prompts=tuple(p.text for p in prompts), **_asked(prompts), **_scored(encoder, prompts, *values, longer=longer)
    )


def _scored(
    encoder: Encoder,
    prompts: Prompts,
    ids: Int[torch.Tensor, "*run prompt new"],
    log_probability: Float[torch.Tensor, "*run prompt"],
    rank: Int[torch.Tensor, "*run prompt"],
    wanted: Int[torch.Tensor, " prompt"],
    *,
    longer: bool,
) -> dict[str, Any]:
    """What was answered and whether it is right, in the fields of a result."""
    first, labels = ids[..., 0].numpy(), [p.answers for p in prompts]
    words = {i: encoder.decode(i) for i in np.unique(first).tolist()}
    hits = [np.vectorize(lambda i, n=n: paper_hit(words[i], labels[n]), otypes=[bool]) for n in range(len(labels))]
    right = _right_ids(encoder, prompts, wanted)
    known = torch.tensor([bool(some) for some in labels])
    return {
        "predicted": _nested(first.tolist(), words.__getitem__),
        "log_probability": log_probability.masked_fill(~known, float("nan")).numpy(),
        "rank": rank.masked_fill(~known, -1).numpy(),
        "paper": np.stack([hit(first[..., n]) for n, hit in enumerate(hits)], -1),
        "strict": np.stack([np.isin(first[..., n], list(some)) for n, some in enumerate(right)], -1),
        "continuations": _nested(ids.tolist(), encoder.text, depth=ids.dim() - 1) if longer else None,
    }


def _nested(values: Any, make: Callable[[Any], str], depth: int | None = None) -> Any:
    """Texts in the nesting of the tokens they are made from, or of those at some depth."""
    if depth == 0 or not isinstance(values, list):
        return make(values)
    return tuple(_nested(value, make, None if depth is None else depth - 1) for value in values)


def _right_ids(encoder: Encoder, prompts: Prompts, wanted: torch.Tensor) -> list[set[int]]:
    """The tokens with which each prompt's labels begin; `wanted` holds that of the canonical one."""
    before = prompts.template.delimiter
    begun = {labels: encoder.first_tokens(before, labels) for labels in {p.answers for p in prompts}}
    pairs = zip(wanted.tolist(), prompts, strict=True)
    return [{token} | begun[p.answers] if p.answers else set() for token, p in pairs]


def _announce_ties(found: Answers | Transfer) -> None:
    """Warns of answers that the first token does not tell from other labels of the task."""
    tied = found.tied()
    if not tied.any():
        return
    where = tuple(np.argwhere(tied)[0])
    said: Any = found.predicted
    for place in where:
        said = said[place]
    rival = next(label for label in sorted(rivals_of(found)[where[-1]]) if paper_hit(said, label))
    own = next(label for label in found.accepted[where[-1]] if paper_hit(said, label))
    warnings.warn(
        f"{int(tied.sum())} of {tied.size} answers are hits under `paper` on several labels of one task: {said!r} "
        f"begins {own!r} and {rival!r} ({found.tasks[where[-1]]}). The first token does not tell them apart: read more "
        "(max_new_tokens=...) and take score='whole'.",
        XmiWarning,
        stacklevel=outside(),
    )


def _asked(prompts: Prompts) -> dict[str, Any]:
    """What was asked, as every result stores it."""
    return {
        "tasks": tuple(p.task for p in prompts),
        "units": tuple(p.unit if p.input else p.text for p in prompts),
        "answers": tuple(p.answer or "" for p in prompts),
        "alternatives": tuple(p.alternatives for p in prompts) if any(p.alternatives for p in prompts) else None,
    }


def _layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
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
