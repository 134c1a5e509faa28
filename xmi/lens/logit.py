"""The logit lens: every depth read as if it were the last.

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from xmi.kernels import lens_kernel
from xmi.model import Engine


@dataclass(frozen=True)
class LensValues:
    """What the lens gives for one batch; depth 0 is the embedding, depth i the residual after block i - 1.

    Attributes:
        mass: Probability mass of each followed token set.
        rank: Best rank in each set, 0 = top.
        ids: Top tokens.
        probabilities: Their probabilities.
    """

    mass: Float[np.ndarray, "row depth set"]
    rank: Int[np.ndarray, "row depth set"]
    ids: Int[np.ndarray, "row depth k"]
    probabilities: Float[np.ndarray, "row depth k"]


def logit_lens(
    engine: Engine,
    inputs: dict[str, torch.Tensor],
    columns: torch.Tensor,
    sets: list[list[list[int]]],
    k: int,
) -> LensValues:
    """Decodes one column per row at every depth with the model's final norm and unembedding.

    Args:
        engine: The model.
        inputs: An encoded batch.
        columns: The column to read in each row.
        sets: Token sets to follow in each row.
        k: How many top tokens to return.

    Returns:
        The readings of the batch.
    """
    backbone = engine.backbone
    arguments, back = engine.reading(inputs, columns)
    values = lens_kernel(engine.envoy, arguments, engine.paths, back, sets, backbone.scale, backbone.softcap, k)
    return LensValues(*(v.numpy() for v in values))


def depths(n_layers: int) -> tuple[str, ...]:
    """Names of the depths: `embed`, `0`, `1`, ..."""
    return ("embed", *(str(i) for i in range(n_layers)))
