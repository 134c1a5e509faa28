"""From the residual stream to logits, exactly as the model does it."""

from __future__ import annotations

import torch
from jaxtyping import Float

from xmi.model.backbone import Backbone, module_at


def readout(
    model: torch.nn.Module, backbone: Backbone, residual: Float[torch.Tensor, "*batch d_model"]
) -> Float[torch.Tensor, "*batch vocab"]:
    """Final norm, unembedding, logit scaling and soft-capping of a residual.

    Args:
        model: The model that owns the parts.
        backbone: Where they are.
        residual: Residual-stream vectors, in the model's dtype.

    Returns:
        Logits in the model's dtype.
    """
    logits: torch.Tensor = module_at(model, backbone.head)(module_at(model, backbone.norm)(residual))
    logits = logits * backbone.scale
    if backbone.softcap is not None:
        logits = torch.tanh(logits / backbone.softcap) * backbone.softcap
    return logits
