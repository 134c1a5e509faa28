"""Kernels that prove, where a model runs, that what is read there is what the model computes."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.inputs import place
from xmi.kernels.residuals import at, hidden


def proof_kernel(
    model: Any,
    one: dict[str, Any],
    two: dict[str, Any],
    paths: dict[str, str],
    scale: float,
    softcap: float | None,
    positions: bool,
) -> dict[str, float]:
    """Reads the last residual out, changes the last token, writes into blocks, and gives positions.

    Args:
        model: nnsight model.
        one: Tokens of one row, without padding.
        two: The same with another last token.
        paths: `layers`, `norm`, `head`, `n_layers`.
        scale: Factor on the unembedding's output.
        softcap: Soft-capping of the logits, or None.
        positions: Whether the model takes `position_ids`.

    Returns:
        `readout`: largest difference of the readout to the model's logits, relative to the largest logit; `causality`:
        how far earlier residuals moved when the last token changed, relative to their size; `dead`: the first block
        whose residual does not move the logits when it is written, or -1; `positions`: 1 if positions counted from 0
        give the same logits, bit by bit, 0 if not.
    """
    one, two = place(model, one), place(model, two)
    last = int(paths["n_layers"]) - 1
    states, outputs, gaps = [], [], []
    for inputs in (one, two):
        with torch.no_grad(), model.trace(**inputs):
            last_state = hidden(at(model, paths["layers"])[last].output)
            state = save(last_state.float().cpu())
            decoded = at(model, paths["head"])(at(model, paths["norm"])(last_state))[:, -1].float() * scale
            if softcap is not None:
                decoded = torch.tanh(decoded / softcap) * softcap
            logits = save(model.output.logits[:, -1].cpu())
            gap = save((decoded.cpu() - logits.float()).abs().max().item())
        states.append(state)
        outputs.append(logits)
        gaps.append(gap)
    plain, dead = outputs[0], -1
    for layer in range(last + 1):
        with torch.no_grad(), model.trace(**one):
            hidden(at(model, paths["layers"])[layer].output)[:, -1] = 0
            moved = save((model.output.logits[:, -1].cpu() - plain).abs().max().item())
        if moved == 0 and dead < 0:
            dead = layer
    same = 0.0
    if positions:
        counted = torch.arange(one["input_ids"].shape[1], device=one["input_ids"].device)[None]
        with torch.no_grad(), model.trace(**one, position_ids=counted):
            same = save(float(torch.equal(model.output.logits[:, -1].cpu(), plain)))
    early = states[0][:, :-1]
    return {
        "readout": max(gaps) / max(plain.float().abs().max().item(), 1e-12),
        "causality": ((early - states[1][:, :-1]).abs().max() / early.abs().max().clamp(min=1e-12)).item(),
        "dead": dead,
        "positions": same,
    }


def sight_kernel(model: Any, picture: dict[str, Any], blank: dict[str, Any]) -> float:
    """How far the logits move when an image is blanked, relative to the largest.

    Args:
        model: nnsight model.
        picture: A prompt with an image.
        blank: The same with a blank one.
    """
    found = []
    for inputs in (place(model, picture), place(model, blank)):
        with torch.no_grad(), model.trace(**inputs):
            logits = save(model.output.logits[:, -1].float().cpu())
        found.append(logits)
    return float((found[0] - found[1]).abs().max() / found[0].abs().max().clamp(min=1e-12))
