"""Kernels that give what a user asked to see: activations by place, and continuations."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.inputs import place
from xmi.kernels.residuals import at, hidden


def cache_kernel(
    model: Any, inputs: dict[str, Any], places: list[list[str]], columns: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and activations of one forward.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        places: Module path and `input` or `output` of each activation, in the order of execution.
        columns: The positions to keep in each row, counted from the end, shape [row, slot]; None for all.

    Returns:
        Logits [row, position, vocab] and activations [row, position, ...] in the model's precision, on the CPU.
    """
    inputs = place(model, inputs)
    rows = None if columns is None else torch.arange(len(columns))[:, None]
    with torch.no_grad(), model.trace(**inputs):
        kept = []
        for path, side in places:
            module = at(model, path)
            value = module.input if side == "input" else hidden(module.output)
            kept.append((value if rows is None else value[rows, columns]).cpu().clone())
        logits = model.output.logits
        logits = save((logits if rows is None else logits[rows, columns]).cpu())
        kept = save(kept)
    return logits, kept


def generate_kernel(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> torch.Tensor:
    """The model's own `generate`.

    Args:
        model: nnsight model.
        inputs: Encoded prompts.
        options: What `generate` takes besides them.

    Returns:
        Token ids on the CPU, as `generate` gives them.
    """
    if "stop_strings" in options:
        options = {**options, "tokenizer": model.tokenizer}
    with torch.no_grad(), model.generate(**place(model, inputs), **options) as tracer:
        made: torch.Tensor = save(tracer.result)
    return made.cpu()
