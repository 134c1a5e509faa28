"""What a lens is: an affine map per depth, before the model's own final norm and unembedding.

That is all of a lens that has to reach the model, so any lens runs wherever the kernel does. A lens of one's own is a
class with a `name` and `translators`; it need not derive from anything here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from xmi.kernels import lens_kernel
from xmi.model import Engine


class Lens(Protocol):
    """Anything that reads the residual stream of a model into its vocabulary."""

    @property
    def name(self) -> str:
        """Its name, stored with what it reads."""

    def translators(
        self, engine: Engine
    ) -> tuple[Float[torch.Tensor, "depth d_model d_model"], Float[torch.Tensor, "depth d_model"]] | None:
        """Weight and bias of every depth but the last, which needs none: state + weight @ state + bias.

        Args:
            engine: The model to be read.

        Returns:
            As many of both as the model has layers (the embedding is the first depth), or None for the identity.

        Raises:
            ModelError: The lens was made for another model.
        """


@dataclass(frozen=True)
class LensValues:
    """What a lens gives for one batch; depth 0 is the embedding, depth i the residual after block i - 1.

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


def read_depths(
    lens: Lens,
    engine: Engine,
    inputs: dict[str, torch.Tensor],
    columns: torch.Tensor,
    sets: list[list[list[int]]],
    k: int,
) -> LensValues:
    """Decodes one column per row at every depth.

    Args:
        lens: The lens.
        engine: The model.
        inputs: An encoded batch.
        columns: The column to read in each row.
        sets: Token sets to follow in each row.
        k: How many top tokens to return.

    Returns:
        The readings of the batch.

    Raises:
        ModelError: The lens was made for another model.
    """
    backbone = engine.backbone
    weight, bias = lens.translators(engine) or (None, None)
    arguments, back = engine.reading(inputs, columns)
    values = lens_kernel(
        engine.envoy, arguments, engine.paths, back, sets, backbone.scale, backbone.softcap, k, weight, bias
    )
    return LensValues(*(v.numpy() for v in values))


def depths(n_layers: int) -> tuple[str, ...]:
    """Names of the depths: `embed`, `0`, `1`, ..."""
    return ("embed", *(str(i) for i in range(n_layers)))
