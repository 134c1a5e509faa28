"""Kernels that read: residuals at one position per row or at any tokens, their lens decoding, and the next tokens."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.inputs import grown, place


def at(model: Any, path: str) -> Any:
    """Follows a module path (`model.layers.3`) from the model's envoy; the empty path is the model."""
    envoy = model
    for part in path.split(".") if path else []:
        envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
    return envoy


def hidden(output: Any) -> torch.Tensor:
    """The residual stream in a block's output: itself, or the first of a tuple."""
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result


class ResidPost:
    """The residual stream after each block inside a trace, whether blocks return a tensor or a tuple."""

    def __init__(self, layers: Any) -> None:
        """Takes the envoys of the blocks."""
        self.layers = layers

    def __len__(self) -> int:
        """Returns the number of layers."""
        return len(self.layers)

    def __getitem__(self, layer: int) -> torch.Tensor:
        """Returns the residual stream after a block, [batch, position, d_model]; may be written in place."""
        return hidden(self.layers[layer].output)

    def __setitem__(self, layer: int, value: torch.Tensor) -> None:
        """Replaces the residual stream after a block."""
        output = self.layers[layer].output
        self.layers[layer].output = (value, *output[1:]) if isinstance(output, tuple) else value


def residual_kernel(
    model: Any, inputs: dict[str, Any], paths: dict[str, str], columns: torch.Tensor, keep: int, ends: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Residual stream after every block at some columns of every row, in one forward.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, with `use_cache` and the like.
        paths: `layers` and `n_layers`.
        columns: The columns to read in each row, counted from the end (-1 is the last), shape [row, slot]; some models
            drop tokens of which no logits are kept.
        keep: How many rows are wanted one by one.
        ends: Numbers of rows to sum over, from the first.

    Returns:
        float32 on the CPU: the first rows, shape [keep, slot, layer, d_model], and the sums, shape [len(ends), slot,
        layer, d_model].
    """
    rows = torch.arange(len(columns))[:, None]
    count = int(paths["n_layers"])
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        kept = []
        for layer in range(count):
            kept.append(hidden(at(model, paths["layers"])[layer].output)[rows, columns].float().cpu())
        values = save(torch.stack(kept, dim=2))
    return values[:keep].clone(), torch.stack([values[:end].double().sum(0).float() for end in ends])


def stream_kernel(
    model: Any, inputs: dict[str, Any], paths: dict[str, str], rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Residual stream at every depth of any tokens, in one forward: what lenses are trained on.

    Depth 0 is the embedding (the first block's input), depth i the residual after block i - 1.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        paths: `layers`, `n_layers`.
        rows: The row of each token, shape [token].
        columns: Its column, counted from the end, shape [token].

    Returns:
        In the model's precision on the CPU, shape [token, depth, d_model].
    """
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        blocks = at(model, paths["layers"])
        kept = [blocks[0].input[rows, columns].cpu()]
        for layer in range(int(paths["n_layers"])):
            kept.append(hidden(blocks[layer].output)[rows, columns].cpu())
        result: torch.Tensor = save(torch.stack(kept, dim=1))
    return result


def translate(state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Residuals as a lens hands them to the final norm: state + weight @ state + bias, in float32 until the end.

    Args:
        state: Shape [..., d_model].
        weight: Shape [d_model, d_model]; zero leaves the state as it is.
        bias: Shape [d_model].
    """
    wide = state.float()
    return (wide + wide @ weight.to(wide.device).T + bias.to(wide.device)).to(state.dtype)


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
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """A lens at one column per row: every depth decoded by the model's own norm and unembedding.

    Depth 0 is the embedding (the first block's input), depth i the residual after block i - 1.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        paths: `layers`, `norm`, `head`, `n_layers`.
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

    Returns:
        Probability mass of each set [row, depth, set], best rank in each set [row, depth, set] (an empty set has
        mass 0 and the last rank), top token ids [row, depth, k] and their probabilities [row, depth, k]; and what
        `next_token_kernel` returns, or nothing without `answers`.
    """
    rows = torch.arange(len(columns))
    count = int(paths["n_layers"])
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        blocks = at(model, paths["layers"])
        entering = blocks[0].input
        kept = [entering[rows, columns]]
        for layer in range(count):
            kept.append(hidden(blocks[layer].output)[rows, columns])
        if weight is not None and bias is not None:
            for depth in range(count):
                kept[depth] = translate(kept[depth], weight[depth], bias[depth])
        mass, rank, ids, probabilities = [], [], [], []
        for state in kept:
            logits = at(model, paths["head"])(at(model, paths["norm"])(state)).float() * scale
            if softcap is not None:
                logits = torch.tanh(logits / softcap) * softcap
            probability = logits.softmax(-1)
            top = probability.topk(k, dim=-1)
            ids.append(top.indices.cpu())
            probabilities.append(top.values.cpu())
            set_mass, set_rank = over_sets(probability, sets)
            mass.append(set_mass)
            rank.append(set_rank)
        read = save((torch.stack(mass, 1), torch.stack(rank, 1), torch.stack(ids, 1), torch.stack(probabilities, 1)))
        if answers is not None:
            said = save(tuple(value[:, 0] for value in score(model.output.logits[:, -1:], answers, 1)))
    return read, () if answers is None else continued(model, inputs, answers, said, new)


def over_sets(probability: torch.Tensor, sets: list[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mass of each row's token sets and the best rank in them, from probabilities [row, vocab].

    Returns:
        float32 and int64 on the CPU, shape [row, set]; an empty set has mass 0 and the last rank.
    """
    shape = (len(sets), len(sets[0]))
    mass, rank = torch.zeros(shape), torch.full(shape, probability.shape[-1] - 1)
    for row, groups in enumerate(sets):
        for column, group in enumerate(groups):
            if group:
                chosen = probability[row, group]
                mass[row, column] = chosen.sum()
                rank[row, column] = (probability[row] > chosen.max()).sum()
    return mass, rank


def next_token_kernel(
    model: Any, inputs: dict[str, Any], answers: torch.Tensor, new: int = 1
) -> tuple[torch.Tensor, ...]:
    """The next tokens after each left-padded row, greedily.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        answers: Id of each row's answer token, shape [row].
        new: How many tokens.

    Returns:
        Their ids [row, new], and log-probability (nats) and rank (0 = top) of the answer as the first [row].
    """
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        said = save(tuple(value[:, 0] for value in score(model.output.logits[:, -1:], answers, 1)))
    return continued(model, inputs, answers, said, new)


def continued(
    model: Any, inputs: dict[str, Any], answers: torch.Tensor, said: tuple[torch.Tensor, ...], new: int
) -> tuple[torch.Tensor, ...]:
    """What `next_token_kernel` returns, from what was said first."""
    ids, log_probability, rank = said
    for _ in range(new - 1):
        ids = torch.cat([ids, next_token_kernel(model, grown(inputs, ids), answers)[0]], 1)
    return ids, log_probability, rank


def score(logits: torch.Tensor, answers: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top ids [row, place, k], log-probability and rank of the answers [row, place], on the CPU.

    Args:
        logits: Shape [row, place, vocab].
        answers: One id per row.
        k: How many top tokens.
    """
    tops, own, ranks = [], [], []
    # A few places at a time: float32 copies of all logits of a large vocabulary would need gigabytes, and a share of
    # the logits' own memory is all that scoring may take.
    size = max(1, min(2**17 // logits.shape[-1], logits.shape[1] // 16))
    for part in torch.split(logits, size, dim=1):
        values = part.float()
        index = answers.to(part.device)[:, None, None].expand(-1, part.shape[1], 1)
        chosen = values.gather(-1, index)
        best = values.argmax(-1, keepdim=True) if k == 1 else values.topk(k, dim=-1).indices
        tops.append(best.cpu())
        own.append((chosen[..., 0] - values.logsumexp(-1)).cpu())
        ranks.append((values > chosen).sum(-1).cpu())
    return torch.cat(tops, 1), torch.cat(own, 1), torch.cat(ranks, 1)
