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
    answers: torch.Tensor,
    k: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches vectors into the last token after each layer, one copy of the token per vector and layer.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, rows padded on the left.
        paths: `decoder`, `layers`.
        vectors: What to write, shape [set, len(layers), d_model].
        layers: After which blocks.
        answers: Id of each row's answer token, shape [row].
        k: How many top tokens to return.

    Returns:
        Top ids [row, 1 + set * layer, k], log-probability (nats) and rank of the answer [row, 1 + set * layer]; entry
        0 is the clean run, entry 1 + s * len(layers) + i is set s patched after layers[i].
    """
    sets, count = vectors.shape[0], vectors.shape[1]
    copies = sets * count
    with torch.no_grad(), model.trace(**inputs):
        decoder = at(model, paths["decoder"])
        args, kwargs = decoder.inputs
        embed = decoder._module.get_input_embeddings()
        decoder.inputs = pack_inputs(args, kwargs, copies, decoder._module.config, embed)
        for i in sorted(range(count), key=layers.__getitem__):  # a trace reads in the order of execution
            state = hidden(at(model, paths["layers"])[layers[i]].output)
            # Negative columns, because some models drop tokens before their decoder.
            columns = torch.arange(sets) * count + i - copies
            state[:, columns] = vectors[:, i].to(state.device, state.dtype)
        logits = model.output.logits[:, -copies - 1 :]
        ids, log_probability, rank = score(logits, answers, k)
        ids, log_probability, rank = save(ids), save(log_probability), save(rank)
    return ids, log_probability, rank
