"""The packed layer sweep: every vector at every layer, and the clean run, in one forward."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.packing import pack_inputs
from xmi.kernels.residuals import at, hidden, score


def sweep_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    vectors: torch.Tensor,
    layers: list[int],
    slots: torch.Tensor,
    width: int,
    answers: torch.Tensor,
    k: int,
    mode: str,
    strength: float,
    own: torch.Tensor | None,
    other: torch.Tensor | None,
    keep: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches vectors at a slot after each layer, one copy of the prompt's end per vector and layer.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, rows padded on the left; `logits_to_keep` must keep the last token of
            the prompt and of every copy, in this order.
        paths: `decoder`, `layers`.
        vectors: What to write, shape [set, len(layers), d_model].
        layers: After which blocks.
        slots: The slot's column in each row, counted from the prompt's end (-1 is its last token), shape [row].
        width: Tokens of a copy; it must reach back to the earliest slot.
        answers: Id of each row's answer token, shape [row].
        k: How many top tokens to return.
        mode: `overwrite`, `add` (residual + strength * vector) or `interpolate` ((1 - strength) * residual + strength *
            vector).
        strength: See `mode`.
        own: The prompt's last tokens [row, n], if copies have others there (continuations).
        other: Those of the copies [row, copies, n].
        keep: After which blocks to return the residual of every copy's last token.

    Returns:
        Top ids [row, 1 + set * layer, k], log-probability (nats) and rank of the answer [row, 1 + set * layer], and
        residuals [row, 1 + set * layer, len(keep), d_model]; entry 0 is the clean run, entry 1 + s * len(layers) + i is
        set s patched after layers[i].
    """
    sets, count = vectors.shape[0], vectors.shape[1]
    copies = sets * count
    rows = torch.arange(len(slots))[:, None]
    # Negative columns, because some models drop tokens before their decoder.
    starts = (torch.arange(copies) - copies) * width
    ends = torch.cat([torch.tensor([-copies * width - 1]), starts + width - 1])
    with torch.no_grad(), model.trace(**inputs):
        decoder = at(model, paths["decoder"])
        args, kwargs = decoder.inputs
        embed = decoder._module.get_input_embeddings()
        decoder.inputs = pack_inputs(args, kwargs, copies, width, decoder._module.config, embed, own, other)
        kept = []
        for layer in sorted({*layers, *keep}):  # a trace reads in the order of execution
            state = hidden(at(model, paths["layers"])[layer].output)
            if layer in layers:
                place = layers.index(layer)
                mine = starts[place::count]
                columns = mine[None, :] + width + slots[:, None]
                new = vectors[:, place].to(state.device, state.dtype)
                state[rows, columns] = blend(state[rows, columns], new, mode, strength)
            if layer in keep:
                kept.append(state[:, ends].float().cpu())
        logits = model.output.logits
        if logits.shape[1] != copies + 1:  # the model keeps the logits of all tokens
            logits = logits[:, ends]
        ids, log_probability, rank = score(logits, answers, k)
        ids, log_probability, rank = save(ids), save(log_probability), save(rank)
        residuals = save(torch.stack(kept, 2) if kept else torch.zeros(len(slots), copies + 1, 0, 0))
    return ids, log_probability, rank, residuals


def blend(old: torch.Tensor, new: torch.Tensor, mode: str, strength: float) -> torch.Tensor:
    """What takes the residual's place: `new`, or with `add` and `interpolate` a mixture of both."""
    if mode == "add":
        return old + strength * new
    if mode == "interpolate":
        return (1 - strength) * old + strength * new
    return new
