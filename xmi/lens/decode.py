"""What a vector would be read as, if it were the residual stream."""

from __future__ import annotations

import torch
from jaxtyping import Float

from xmi.errors import VectorError
from xmi.kernels import decode_kernel
from xmi.lens.base import Lens, depths
from xmi.lens.logit import LogitLens
from xmi.measure import LensReading
from xmi.session import Session


def decode(
    session: Session, values: Float[torch.Tensor, "layer d_model"], *, k: int = 5, lens: Lens | None = None
) -> LensReading:
    """Top tokens of a vector at each layer, by the logit lens or another one: `TaskVector.decode` calls it.

    Args:
        values: One vector for the residual after each block: a task vector's values, a difference, directions of yours.
        k: Tokens per layer.
        lens: The lens, by default the logit lens.

    Returns:
        Tokens and probabilities [1, layer, k].

    Raises:
        VectorError: Values of another shape than the model's, or NaN.
        ModelError: The lens was trained on another model.

    Examples:
        >>> vector = vlm.task_vector(task.icl("text"))
        >>> reading = vlm.decode(vector.values)
        >>> reading.probabilities.shape  # one vector, layer, k
        (1, 8, 5)
        >>> reading.depth[6], reading.tokens[0][6][0]
        ('6', 'capital')
    """
    engine, b = session.engine, session.backbone
    if tuple(values.shape) != (b.n_layers, b.d_model):
        raise VectorError(
            f"Values of shape {list(values.shape)} cannot be decoded: {session.name} has {b.n_layers} layers of width "
            f"{b.d_model}, so give values of shape [{b.n_layers}, {b.d_model}]."
        )
    if not bool(torch.isfinite(values).all()):
        raise VectorError("The values hold NaN or infinite numbers: check the dtype they were read in.")
    chosen = lens or LogitLens()
    weight, bias = chosen.translators(engine) or (None, None)
    inputs, places = engine.forward(engine.probe()[0]), list(range(1, b.n_layers + 1))
    read = b.scale, b.softcap, k, weight, bias
    ((ids, probabilities),) = engine.map(
        decode_kernel, [(inputs, engine.paths, values.detach().float().cpu(), places, *read)]
    )
    tokens = tuple(tuple(session.encoder.decode(i) for i in row) for row in ids.tolist())
    return LensReading(depths(b.n_layers)[1:], (tokens,), probabilities[None].numpy(), "the vector itself", chosen.name)
