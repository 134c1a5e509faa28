"""What a model is given: moved to where it computes, and grown by what was said."""

from __future__ import annotations

from typing import Any

import torch


def place(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments on the model's device, and floats (pixels) in its precision.

    Where a kernel runs, not where its arguments were made, decides both: a host has its own.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
    """
    module = model._module
    device = module.get_input_embeddings().weight.device
    return {
        name: value
        if not isinstance(value, torch.Tensor)
        else value.to(device, module.dtype)
        if value.is_floating_point()
        else value.to(device)
        for name, value in inputs.items()
    }


def grown(inputs: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """A left-padded encoded batch with more tokens at its end; of them is said what is said of the last token.

    Args:
        inputs: Encoded prompts, perhaps with options of the forward.
        ids: What comes after each, shape [row, new].
    """
    shape = inputs["input_ids"].shape
    more = ids.shape[1]
    found = dict(inputs)
    for name, value in inputs.items():
        if name == "input_ids":
            found[name] = torch.cat([value, ids.to(value)], 1)
        elif name == "position_ids":
            found[name] = torch.cat([value, value[:, -1:] + torch.arange(1, more + 1, device=value.device)], 1)
        elif isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[:2] == shape:
            found[name] = torch.cat([value, *[value[:, -1:]] * more], 1)
    return found
