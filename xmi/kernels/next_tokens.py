"""The kernel that answers: the next tokens after each prompt, greedily."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.continuing import go_on, keeping, last_told
from xmi.kernels.inputs import grown, place
from xmi.kernels.residuals import at, score


def next_token_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    answers: torch.Tensor,
    new: int = 1,
    cached: bool = False,
) -> tuple[torch.Tensor, ...]:
    """The next tokens after each left-padded row, greedily.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        paths: `decoder`.
        answers: Id of each row's answer token, shape [row].
        new: How many tokens.
        cached: Whether those after the first are read from kept keys and values; otherwise each takes a forward of the
            whole prompt.

    Returns:
        Their ids [row, new], log-probability (nats) and rank (0 = top) of the answer as the first [row], and
        log-probability of each token [row, new].
    """
    inputs, told = place(model, inputs), None
    given = keeping(inputs) if cached and new > 1 else inputs
    with torch.no_grad(), model.trace(**given):
        if cached and new > 1:
            decoder = at(model, paths["decoder"])
            args, kwargs = decoder.inputs
            told = save(last_told(args, kwargs, decoder._module.get_input_embeddings()))
        said = save(tuple(value[:, 0] for value in score(model.output.logits[:, -1:], answers, 1)))
    return continued(model, given, paths, answers, said, new, told)


def continued(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    answers: torch.Tensor,
    said: tuple[torch.Tensor, ...],
    new: int,
    told: dict[str, Any] | None,
) -> tuple[torch.Tensor, ...]:
    """What `next_token_kernel` returns, from what was said first, and from keys and values if `told` says where."""
    ids, log_probability, rank, certain = said
    certain = certain[:, None]
    if told is not None:
        found, sure = go_on(model, inputs, paths, told, ids, answers, 1, new)
        return found[:, 0], log_probability, rank, torch.cat([certain, sure[:, 0]], 1)
    for _ in range(new - 1):
        one, _, _, sure = next_token_kernel(model, grown(inputs, ids), paths, answers)
        ids, certain = torch.cat([ids, one], 1), torch.cat([certain, sure], 1)
    return ids, log_probability, rank, certain
