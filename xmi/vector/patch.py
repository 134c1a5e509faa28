"""Patching task vectors into queries, and the answers without a patch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from xmi.errors import ModelError, VectorError
from xmi.kernels import next_token_kernel, sweep_kernel
from xmi.measure import Answers, Transfer, paper_hit, strict_hit
from xmi.model import Engine
from xmi.prompt import Batch, Encoder, Prompts
from xmi.vector.task_vector import TaskVector, check_fits

MAX_COPIES = 256
"""How many copies of the last token one forward carries at most; more vectors are split over forwards."""


def answer(engine: Engine, encoder: Encoder, prompts: Prompts, batches: Iterable[Batch]) -> Answers:
    """The next token after each prompt; see `VLM.answers`."""
    kept: list[tuple[torch.Tensor, ...]] = []
    for batch in batches:
        targets = encoder.answer_ids(batch.prompts, prompts.template)
        kept.append((*next_token_kernel(engine.envoy, engine.forward(batch.inputs), targets, 1), targets))
    ids, log_probability, rank, wanted = (torch.cat(column) for column in zip(*kept, strict=True))
    return _answers(encoder, prompts, ids[:, 0], log_probability, rank, wanted)


def transfer(
    engine: Engine,
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    to: Prompts,
    batches: Iterable[Batch],
    layers: Sequence[int] | None,
) -> Transfer:
    """Every vector at every layer into every query; see `VLM.transfer`."""
    backbone, name = engine.backbone, engine.checkpoint.name
    for vector in vectors.values():
        fit = {"n_layers": backbone.n_layers, "d_model": backbone.d_model}
        check_fits(vector, template=to.template.hash, model=name, **fit)
    chosen = _layers(layers, backbone.n_layers)
    stack = torch.stack([v.values[list(chosen)] for v in vectors.values()])
    per_forward = max(1, MAX_COPIES // len(chosen))
    rows: list[tuple[torch.Tensor, ...]] = []
    for batch in batches:
        targets = encoder.answer_ids(batch.prompts, to.template)
        _prove_packing(engine, batch, stack[:1], chosen, targets)
        parts = [_sweep(engine, batch, group, chosen, targets) for group in torch.split(stack, per_forward)]
        joined = (torch.cat([parts[0][i][:, :1], *(p[i][:, 1:] for p in parts)], 1) for i in range(3))
        rows.append((*joined, targets))
    ids, log_probability, rank, wanted = (torch.cat(column) for column in zip(*rows, strict=True))
    clean = _answers(encoder, to, ids[:, 0], log_probability[:, 0], rank[:, 0], wanted)
    shape = (len(to), len(vectors), len(chosen))
    ids, log_probability, rank = (v[:, 1:].reshape(shape).permute(1, 2, 0) for v in (ids, log_probability, rank))
    predicted = tuple(tuple(tuple(encoder.decode(i) for i in row) for row in source) for source in ids.tolist())
    hits = [[[paper_hit(t, p.answer or "") for t, p in zip(row, to, strict=True)] for row in s] for s in predicted]
    return Transfer(
        sources=tuple(vectors),
        layers=chosen,
        **_asked(to),
        predicted=predicted,
        log_probability=log_probability.numpy(),
        rank=rank.numpy(),
        paper=np.array(hits),
        strict=(ids == wanted).numpy(),
        clean=clean,
    )


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


def _prove_packing(
    engine: Engine, batch: Batch, vectors: torch.Tensor, layers: Sequence[int], targets: torch.Tensor
) -> None:
    """Compares the packed sweep with plain runs, once per model, on the first batch it is asked to patch.

    Packing rests on attention that is causal and obeys a mask. A convolution or a recurrence between tokens does not,
    and no configuration says so reliably; two plain forwards do.
    """
    if engine.proven:
        return
    places = sorted({0, len(layers) // 2})
    chosen, values = [layers[i] for i in places], vectors[:, places]
    inputs, bound = engine.forward(batch.inputs), PACKING_TOLERANCE.get(engine.dtype, 0.3) if engine.exact else 0.3
    plain = []
    for layer, value in zip(chosen, values[0], strict=True):
        with _overwritten(engine, layer, value), torch.no_grad():
            logits = engine.model(**inputs).logits[:, -1].float().cpu()
        plain.append(logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])
    try:
        found = _sweep(engine, batch, values, chosen, targets)[1][:, 1:]
        gap = float((found - torch.stack(plain, 1)).abs().max())
        why = "" if gap <= bound else f"a packed run differs from a plain one by {gap:.1e} in log-probability"
    except Exception as error:  # whatever the model's own code does with a mask it does not expect
        why = str(error).strip().splitlines()[-1]
    if why:
        raise ModelError(
            f"{engine.checkpoint.name}: one forward cannot hold many patched runs of this model ({why}). Its attention "
            "is not causal, or its tokens meet otherwise than by masked attention. Its transfers are not supported yet."
        )
    engine.proven.add("packing")


PACKING_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Allowed difference in log-probability (nats) between packed and plain runs; half precision and quantised
models get 0.3."""


@contextmanager
def _overwritten(engine: Engine, layer: int, value: torch.Tensor) -> Iterator[None]:
    """Overwrites the last token's residual after a block in every plain forward."""

    def write(_module: Any, _args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[:, -1] = value.to(state.device, state.dtype)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    handle = engine.model.get_submodule(f"{engine.backbone.layers}.{layer}").register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()


def _sweep(
    engine: Engine, batch: Batch, vectors: torch.Tensor, layers: Sequence[int], targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = engine.forward(batch.inputs, keep=vectors.shape[0] * len(layers) + 1)
    ids, log_probability, rank = sweep_kernel(engine.envoy, inputs, engine.paths, vectors, list(layers), targets, 1)
    return ids[..., 0], log_probability, rank


def _answers(encoder: Encoder, prompts: Prompts, *values: torch.Tensor) -> Answers:
    """From ids, log-probabilities, ranks and wanted ids, each [prompt], to scored answers."""
    ids, log_probability, rank, wanted = values
    predicted = tuple(encoder.decode(i) for i in ids.tolist())
    pairs: list[tuple[str, Any]] = list(zip(predicted, prompts, strict=True))
    return Answers(
        prompts=tuple(p.text for p in prompts),
        **_asked(prompts),
        predicted=predicted,
        log_probability=log_probability.numpy(),
        rank=rank.numpy(),
        paper=np.array([paper_hit(text, p.answer or "") for text, p in pairs]),
        strict=np.array([strict_hit(a, b) for a, b in zip(ids.tolist(), wanted.tolist(), strict=True)]),
    )


def _asked(prompts: Prompts) -> dict[str, tuple[str, ...]]:
    """What was asked, as every result stores it."""
    return {
        "tasks": tuple(p.task for p in prompts),
        "units": tuple(p.unit for p in prompts),
        "answers": tuple(p.answer or "" for p in prompts),
    }


def _layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = tuple(range(count)) if layers is None else tuple(layers)
    wrong = [i for i in chosen if not 0 <= i < count]
    if not chosen or wrong or len(set(chosen)) < len(chosen):
        raise VectorError(f"Cannot patch layers {list(chosen)}: give distinct layers from 0 to {count - 1}.")
    return chosen
