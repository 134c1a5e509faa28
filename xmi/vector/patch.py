"""Patching task vectors into queries, and the answers without a patch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from xmi.errors import VectorError
from xmi.kernels import next_token_kernel
from xmi.measure import Answers, Transfer, paper_hit, strict_hit
from xmi.model import Engine
from xmi.prompt import Batch, Encoder, Prompts
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
            wanted.append(encoder.answer_ids(batch.prompts, prompts.template))
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
    return _answers(encoder, prompts, *values, torch.cat(list(wanted)), longer=max_new_tokens is not None)


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
) -> Transfer:
    """Every vector at every layer into every query; see `VLM.transfer`."""
    backbone, name = engine.backbone, engine.checkpoint.name
    for vector in vectors.values():
        fit = {"n_layers": backbone.n_layers, "d_model": backbone.d_model}
        check_fits(vector, template=to.template.hash, model=name, **fit)
    new = _tokens(max_new_tokens)
    chosen = _layers(layers, backbone.n_layers)
    patch = Patch(torch.stack([v.values[list(chosen)] for v in vectors.values()]), chosen, slot, mode, strength)
    targets: list[torch.Tensor] = []

    def sweeps() -> Iterator[Callable[[], Swept]]:
        for batch in batches:
            targets.append(encoder.answer_ids(batch.prompts, to.template))
            yield partial(sweep, engine, encoder, batch, patch, targets[-1], new)

    rows = [(found.ids, found.log_probability, found.rank) for found in engine.together(sweeps())]
    (ids, log_probability, rank), wanted = (torch.cat(column) for column in zip(*rows, strict=True)), torch.cat(targets)
    longer = max_new_tokens is not None
    clean = _answers(encoder, to, ids[:, 0], log_probability[:, 0], rank[:, 0], wanted, longer=longer)
    shape = (len(to), len(vectors), len(chosen))
    log_probability, rank = (v[:, 1:].reshape(shape).permute(1, 2, 0) for v in (log_probability, rank))
    ids = ids[:, 1:].reshape(*shape, -1).permute(1, 2, 0, 3)
    first = ids[..., 0]
    predicted = tuple(tuple(tuple(encoder.decode(i) for i in row) for row in source) for source in first.tolist())
    hits = [[[paper_hit(t, p.answers) for t, p in zip(row, to, strict=True)] for row in s] for s in predicted]
    right = [np.isin(first[..., i], list(ids)) for i, ids in enumerate(_right_ids(encoder, to, wanted))]
    texts = tuple(tuple(tuple(encoder.text(i) for i in row) for row in source) for source in ids.tolist())
    return Transfer(
        sources=tuple(vectors),
        layers=chosen,
        **_asked(to),
        predicted=predicted,
        log_probability=log_probability.numpy(),
        rank=rank.numpy(),
        paper=np.array(hits),
        strict=np.stack(right, -1),
        clean=clean,
        continuations=texts if longer else None,
    )


def _tokens(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise VectorError(f"max_new_tokens={asked}: at least one token must be read.")
    return asked or 1


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


def _answers(encoder: Encoder, prompts: Prompts, *values: torch.Tensor, longer: bool = False) -> Answers:
    """From ids [prompt, new], log-probabilities, ranks and wanted ids, each [prompt], to scored answers."""
    ids, log_probability, rank, wanted = values
    first = ids[:, 0]
    predicted = tuple(encoder.decode(i) for i in first.tolist())
    pairs: list[tuple[str, Any]] = list(zip(predicted, prompts, strict=True))
    right = _right_ids(encoder, prompts, wanted)
    return Answers(
        prompts=tuple(p.text for p in prompts),
        **_asked(prompts),
        predicted=predicted,
        log_probability=log_probability.numpy(),
        rank=rank.numpy(),
        paper=np.array([paper_hit(text, p.answers) for text, p in pairs]),
        strict=np.array([strict_hit(a, b) for a, b in zip(first.tolist(), right, strict=True)]),
        continuations=tuple(encoder.text(i) for i in ids.tolist()) if longer else None,
    )


def _right_ids(encoder: Encoder, prompts: Prompts, wanted: torch.Tensor) -> list[set[int]]:
    """The tokens with which each prompt's labels begin; `wanted` holds that of the canonical one."""
    before = prompts.template.delimiter
    further = [{encoder.first_token(before, label) for label in p.alternatives} for p in prompts]
    return [{token} | others for token, others in zip(wanted.tolist(), further, strict=True)]


def _asked(prompts: Prompts) -> dict[str, Any]:
    """What was asked, as every result stores it."""
    return {
        "tasks": tuple(p.task for p in prompts),
        "units": tuple(p.unit for p in prompts),
        "answers": tuple(p.answer or "" for p in prompts),
        "alternatives": tuple(p.alternatives for p in prompts) if any(p.alternatives for p in prompts) else None,
    }


def _layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = tuple(range(count)) if layers is None else tuple(layers)
    wrong = [i for i in chosen if not 0 <= i < count]
    if not chosen or wrong or len(set(chosen)) < len(chosen):
        raise VectorError(f"Cannot patch layers {list(chosen)}: give distinct layers from 0 to {count - 1}.")
    return chosen
