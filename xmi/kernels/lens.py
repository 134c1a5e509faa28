"""The kernel that reads a lens: every depth decoded by the model's own norm and unembedding."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.continuing import keeping, last_told
from xmi.kernels.inputs import place
from xmi.kernels.next_tokens import continued
from xmi.kernels.residuals import at, hidden, score, translate


def lens_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    columns: torch.Tensor,
    sets: list[list[list[int]]],
    scale: float,
    softcap: float | None,
    k: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    answers: torch.Tensor | None = None,
    new: int = 1,
    cached: bool = False,
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """A lens at one column per row: every depth decoded by the model's own norm and unembedding.

    Depth 0 is the embedding (the first block's input), depth i the residual after block i - 1. Depths are decoded
    together, as many as fit in `TOGETHER`, so that the unembedding is read from memory once.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        paths: `decoder`, `layers`, `norm`, `head`, `n_layers`.
        columns: The column to read in each row, counted from the end, shape [row].
        sets: For each row, sets of token ids to follow; every row has the same number of sets.
        scale: Factor on the unembedding's output.
        softcap: Soft-capping of the logits, or None.
        k: How many top tokens to return.
        weight: What `translate` takes at each depth but the last, shape [depth - 1, d_model, d_model]; without it the
            lens is the logit lens.
        bias: The same, shape [depth - 1, d_model].
        answers: Id of each row's answer token, shape [row], to score the next tokens in the same forward, too.
        new: How many of these.
        cached: Whether those after the first are read from kept keys and values.

    Returns:
        Probability mass of each set [row, depth, set], best rank in each set [row, depth, set] (an empty set has
        mass 0 and the last rank), top token ids [row, depth, k] and their probabilities [row, depth, k]; and what
        `next_token_kernel` returns, or nothing without `answers`.
    """
    inputs = place(model, inputs)
    cached = cached and answers is not None and new > 1
    given, told = keeping(inputs) if cached else inputs, None
    with torch.no_grad(), model.trace(**given):
        if cached:
            decoder = at(model, paths["decoder"])
            args, kwargs = decoder.inputs
            told = save(last_told(args, kwargs, decoder._module.get_input_embeddings()))
        states = states_at(model, paths, columns, weight, bias)
        read = save(decoded(at(model, paths["norm"]), at(model, paths["head"]), states, sets, scale, softcap, k))
        if answers is not None:
            said = save(tuple(value[:, 0] for value in score(model.output.logits[:, -1:], answers, 1)))
    if answers is None:
        return read, ()
    return read, continued(model, given, paths, answers, said, new, told)


def decode_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    states: torch.Tensor,
    depths: list[int],
    scale: float,
    softcap: float | None,
    k: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What given states would be read as, each by the lens of its depth.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes; of no interest but that it runs.
        paths: As in `lens_kernel`.
        states: The states, shape [state, d_model].
        depths: The depth of each; 0 is the embedding.
        scale: As in `lens_kernel`.
        softcap: As there.
        k: As there.
        weight: As there.
        bias: As there.

    Returns:
        Top token ids and their probabilities, each [state, k].
    """
    with torch.no_grad(), model.trace(**place(model, inputs)):
        last = hidden(at(model, paths["layers"])[int(paths["n_layers"]) - 1].output)
        given = [state.to(last) for state in states]
        if weight is not None and bias is not None:
            for place_, depth in enumerate(depths):
                if depth < len(bias):
                    given[place_] = translate(given[place_], weight[depth], bias[depth])
        norm, head = at(model, paths["norm"]), at(model, paths["head"])
        found = save(decoded(norm, head, torch.stack(given)[None], [[]], scale, softcap, k))
    return found[2][0], found[3][0]


TOGETHER = 2**22
"""How many probabilities are held at once: more of them no longer gain time, and cost memory."""


def decoded(
    norm: Any, head: Any, states: torch.Tensor, sets: list[list[list[int]]], scale: float, softcap: float | None, k: int
) -> tuple[torch.Tensor, ...]:
    """What residuals [row, depth, d_model] say of token sets, and their top tokens: the first four of `lens_kernel`."""
    some = max(1, TOGETHER // (states.shape[0] * head._module.weight.shape[0]))
    parts: list[list[torch.Tensor]] = [[], [], [], []]
    for part in torch.split(states, some, dim=1):
        probability = logits_of(norm, head, part, scale, softcap).softmax(-1)
        top = probability.topk(k, dim=-1)
        found = *over_sets(probability, sets), top.indices.cpu(), top.values.cpu()
        for values, value in zip(parts, found, strict=True):
            values.append(value)
    return tuple(torch.cat(values, 1) for values in parts)


def logits_of(norm: Any, head: Any, states: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """Logits, float32, of residuals [..., d_model] by the model's own norm and unembedding."""
    logits: torch.Tensor = head(norm(states)).float() * scale
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def states_at(
    model: Any,
    paths: dict[str, str],
    columns: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Inside a trace: residuals at one column per row, as a lens hands them to the norm, [row, depth, d_model]."""
    rows, count = torch.arange(len(columns)), int(paths["n_layers"])
    blocks = at(model, paths["layers"])
    kept = [blocks[0].input[rows, columns]]
    for layer in range(count):
        kept.append(hidden(blocks[layer].output)[rows, columns])
    if weight is not None and bias is not None:
        for depth in range(count):
            kept[depth] = translate(kept[depth], weight[depth], bias[depth])
    return torch.stack([state.to(kept[-1].device) for state in kept], 1)


def over_sets(probability: torch.Tensor, sets: list[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mass of each row's token sets and the best rank in them, from probabilities [row, depth, vocab].

    Returns:
        float32 and int64 on the CPU, shape [row, depth, set]; an empty set has mass 0 and the last rank.
    """
    shape = (*probability.shape[:2], len(sets[0]))
    mass, rank = torch.zeros(shape), torch.full(shape, probability.shape[-1] - 1)
    for row, groups in enumerate(sets):
        for column, group in enumerate(groups):
            if group:
                chosen = probability[row][:, group]
                mass[row, :, column] = chosen.sum(-1).cpu()
                rank[row, :, column] = (probability[row] > chosen.max(-1, keepdim=True).values).sum(-1).cpu()
    return mass, rank
