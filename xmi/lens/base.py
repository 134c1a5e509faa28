"""What a lens is: an affine map per depth, before the model's own final norm and unembedding.

That is all of a lens that has to reach the model, so any lens runs wherever the kernel does. A lens of one's own is a
class with a `name` and `translators`; it need not derive from anything here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from xmi.kernels import lens_kernel
from xmi.model import Engine
from xmi.session import Session
from xmi.shown import Shown

Answers = Int[torch.Tensor, " _"] | None  # a batch each, of its own number of rows
"""The first token of the answer in each row of a batch, if it is asked for."""


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
class LensValues(Shown):
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


@dataclass(frozen=True)
class Asked:
    """What is read of one batch.

    Attributes:
        inputs: Encoded prompts.
        columns: The column to read in each row.
        sets: Token sets to follow in each row.
        answers: Id of each row's answer token, if the next tokens are read, too.
        cached: Whether those after the first are read from kept keys and values.
    """

    inputs: dict[str, torch.Tensor]
    columns: Int[torch.Tensor, " row"]
    sets: list[list[list[int]]]
    answers: Int[torch.Tensor, " row"] | None = None
    cached: bool = False


def read_depths(
    session: Session, lens: Lens, asked: Iterable[Asked], k: int, new: int = 1
) -> list[tuple[LensValues, tuple[torch.Tensor, ...], Answers]]:
    """Decodes one column per row at every depth, and answers in the same forward where that is wanted.

    Args:
        session: The model.
        lens: The lens.
        asked: What to read of each batch.
        k: How many top tokens to return.
        new: How many next tokens, for batches with answers.

    Returns:
        For each batch the readings, what `next_token_kernel` gives (or nothing), and the answers that were asked for.

    Raises:
        ModelError: The lens was made for another model.
    """
    engine, backbone = session.engine, session.backbone
    weight, bias = lens.translators(engine) or (None, None)

    def calls() -> Iterator[tuple[Answers, tuple[Any, ...]]]:
        for one in asked:
            inputs, back = engine.reading(one.inputs, one.columns)
            read = backbone.scale, backbone.softcap, k, weight, bias
            yield one.answers, (inputs, engine.paths, back, one.sets, *read, one.answers, new, one.cached)

    found = session.each(lens_kernel, calls())
    return [(LensValues(*(v.numpy() for v in values)), said, answers) for answers, (values, said) in found]


def depths(n_layers: int) -> tuple[str, ...]:
    """Names of the depths: `embed`, `0`, `1`, ..."""
    return ("embed", *(str(i) for i in range(n_layers)))
