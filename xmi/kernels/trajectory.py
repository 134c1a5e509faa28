"""The kernel that follows a lens to the output: cross-entropy, entropy and divergence at each depth."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.inputs import place
from xmi.kernels.lens import TOGETHER, logits_of, states_at
from xmi.kernels.residuals import at


def trajectory_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    columns: torch.Tensor,
    answers: torch.Tensor,
    scale: float,
    softcap: float | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How far what a lens reads at each depth is from an answer, from certainty, and from the last depth.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        paths: As in `lens_kernel`.
        columns: The column to read in each row, counted from the end, shape [row].
        answers: Id of each row's answer token, shape [row].
        scale: Factor on the unembedding's output.
        softcap: Soft-capping of the logits, or None.
        weight: As in `lens_kernel`.
        bias: As there.

    Returns:
        In nats, float32 on the CPU, each [row, depth]: cross-entropy of the answer, entropy, and the KL divergence of
        the depth from the last one (the expectation is over the last one's tokens).
    """
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        states = states_at(model, paths, columns, weight, bias)
        norm, head = at(model, paths["norm"]), at(model, paths["head"])
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = save(
            _measured(norm, head, states, answers, scale, softcap)
        )
    return found


def _measured(
    norm: Any, head: Any, states: torch.Tensor, answers: torch.Tensor, scale: float, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three measures of residuals [row, depth, d_model], as many depths at a time as fit."""
    some = max(1, TOGETHER // (states.shape[0] * head._module.weight.shape[0]))
    last = logits_of(norm, head, states[:, -1:], scale, softcap).log_softmax(-1)
    parts: list[list[torch.Tensor]] = [[], [], []]
    for part in torch.split(states, some, dim=1):
        told = logits_of(norm, head, part, scale, softcap).log_softmax(-1)
        index = answers.to(told.device)[:, None, None].expand(-1, told.shape[1], 1)
        values = (
            -told.gather(-1, index)[..., 0],
            -(told.exp() * told).sum(-1),
            (last.exp() * (last - told)).sum(-1),
        )
        for kept, value in zip(parts, values, strict=True):
            kept.append(value.cpu())
    one, two, three = (torch.cat(kept, 1) for kept in parts)
    return one, two, three
