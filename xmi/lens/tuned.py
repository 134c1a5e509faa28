"""The tuned lens: an affine translator per depth, trained to foresee the model's own next token.

What the blocks still to come would do to a residual on average is learned, so that an early depth is read in the basis
in which the unembedding expects it. A good fit says what could be read from a depth, not that the model reads it.

Source: Belrose, Furman, Smith, Halawi, Ostrovsky, McKinney, Biderman and Steinhardt, "Eliciting Latent Predictions from
Transformers with the Tuned Lens", 2023, section 3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from xmi.arguments import outside
from xmi.errors import ModelError, XmiWarning
from xmi.lens.base import depths
from xmi.model import Engine
from xmi.shown import Shown
from xmi.storage import pack_tensors, read_tensors, reading, write_file


class LensCard(Shown, BaseModel):
    """What a lens was trained on, and how well it reads.

    Attributes:
        model: Name of the model.
        revision: Its commit or content hash; the lens is refused by any other.
        dtype: Precision the model ran in.
        trained_on: Task and specification of the prompts.
        slot: Where it was trained: a slot, or `text` for all text tokens.
        prompts: Number of prompts trained on.
        tokens: Number of tokens trained on.
        held_out: Number of prompts kept for the comparison.
        steps: Steps per depth.
        size: Tokens per step.
        rate: Learning rate at the first step; it falls linearly to 0.
        decay: Weight decay (towards the logit lens).
        seed: Seed of what was held out and of the drawing.
        before: Mean KL divergence (nats) of the logit lens from the model's output on the held-out prompts, per depth.
        after: That of the trained lens.
        versions: Versions of xmi, torch, transformers and nnsight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    revision: str
    dtype: str
    trained_on: tuple[str, ...]
    slot: str
    prompts: int
    tokens: int
    held_out: int
    steps: int
    size: int
    rate: float
    decay: float
    seed: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class TunedLens(Shown):
    """A trained lens with its card; made by `vlm.tune_lens`.

    Attributes:
        weight: What is added to the identity at each depth but the last, float32.
        bias: What is added to the residual.
        card: What it was trained on.

    Examples:
        >>> lens = vlm.tune_lens(task.icl("text", n=8), steps=2)
        >>> lens.weight.shape  # layer, d_model, d_model
        torch.Size([8, 128, 128])
        >>> vlm.lens(task.queries("text", n=2), lens=lens).probabilities.shape  # prompt, depth, k
        (2, 9, 5)
    """

    weight: Float[torch.Tensor, "depth d_model d_model"]
    bias: Float[torch.Tensor, "depth d_model"]
    card: LensCard

    @property
    def name(self) -> str:
        """Its name."""
        return "tuned lens"

    def translators(
        self, engine: Engine
    ) -> tuple[Float[torch.Tensor, "depth d_model d_model"], Float[torch.Tensor, "depth d_model"]]:
        """Returns weight and bias of every depth but the last.

        Raises:
            ModelError: The lens was trained on another model or revision. (Another precision is a warning.)
        """
        found, card, b = engine.checkpoint, self.card, engine.backbone
        if found.revision != card.revision or self.bias.shape != (b.n_layers, b.d_model):
            layers, width = self.bias.shape
            raise ModelError(
                f"This lens was trained on {card.model}, revision {card.revision} ({layers} layers of width {width}); "
                f"the model is {found.name}, revision {found.revision} ({b.n_layers} layers of width {b.d_model}). "
                "A lens reads only the model it was trained on: train one with vlm.tune_lens(prompts)."
            )
        if (dtype := str(engine.dtype).removeprefix("torch.")) != card.dtype:
            warnings.warn(
                f"This lens was trained on {card.model} in {card.dtype}, and the model runs in {dtype}: what it reads "
                "differs by rounding.",
                XmiWarning,
                stacklevel=outside(),
            )
        return self.weight, self.bias

    def to(self, device: str | torch.device) -> TunedLens:
        """Returns the lens on another device; on the model's own it need not travel with every batch."""
        return TunedLens(self.weight.to(device), self.bias.to(device), self.card)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per depth: depth, before, after.

        `before` and `after` are the mean KL divergence in nats of the logit lens and of this lens from the model's own
        next-token distribution, on prompts it was not trained on.
        """
        names = depths(len(self.bias))[:-1]
        return pd.DataFrame({"depth": names, "before": self.card.before, "after": self.card.after})

    def save(self, path: str | Path) -> Path:
        """Writes the lens as safetensors, its card in the header, and returns the path.

        Raises:
            StorageError: It cannot be written there.
        """
        return write_file(path, self.dumps())

    def dumps(self) -> bytes:
        """Returns the content of the file that `save` writes."""
        return pack_tensors({"weight": self.weight, "bias": self.bias}, {"lens": self.card.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Reads a lens written by `save`.

        Raises:
            ModelError: The file does not exist, is damaged, or holds no tuned lens.
        """
        with reading(path, "tuned lens", error=ModelError):
            tensors, texts = read_tensors(path)
            lens = cls(tensors["weight"], tensors["bias"], LensCard.model_validate_json(texts["lens"]))
            depth, width = lens.bias.shape
            if lens.weight.shape != (depth, width, width) or not lens.weight.is_floating_point():
                raise ValueError(f"weight {tuple(lens.weight.shape)} does not go with bias {(depth, width)}")
            return lens
