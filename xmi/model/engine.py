"""A checked model, ready to be traced."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from nnsight import TransformersModel

from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, check_model
from xmi.model.load import Checkpoint


@dataclass(frozen=True)
class Engine:
    """A checkpoint with its backbone and its nnsight envoy.

    Attributes:
        checkpoint: Model, processor and identity.
        backbone: Where its language backbone is.
        report: What the self-check found, or None if it was skipped.
    """

    checkpoint: Checkpoint
    backbone: Backbone
    report: CheckReport | None

    @classmethod
    def start(cls, checkpoint: Checkpoint, *, check: bool = True) -> Engine:
        """Finds the backbone and checks it.

        Raises:
            ModelError: The backbone cannot be found, or the self-check fails.
        """
        backbone = find_backbone(checkpoint.model)
        return cls(checkpoint, backbone, _check(checkpoint, backbone) if check else None)

    @cached_property
    def causal(self) -> bool:
        """Whether attention is causal; measured now if the self-check was skipped."""
        return (self.report or _check(self.checkpoint, self.backbone)).causal

    @cached_property
    def envoy(self) -> Any:
        """The nnsight model around the checkpoint."""
        tool = self.checkpoint
        if tool.processor is None:
            return TransformersModel(tool.model, tokenizer=tool.tokenizer, task="text-generation")
        return TransformersModel(tool.model, processor=tool.processor, task="image-text-to-text")

    @cached_property
    def paths(self) -> dict[str, Any]:
        """The backbone as builtins, as kernels take it."""
        b = self.backbone
        return {
            "decoder": b.decoder,
            "layers": b.layers,
            "norm": b.norm,
            "head": b.head,
            "n_layers": b.n_layers,
        }

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return next(self.checkpoint.model.get_submodule(self.backbone.embed).parameters()).device

    @cached_property
    def max_length(self) -> int | None:
        """Longest sequence the model takes, or None if its configuration does not say."""
        found = getattr(self.checkpoint.model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[operator,union-attr]
        return int(found) if found else None

    @cached_property
    def wants_positions(self) -> bool:
        """Whether position ids should be given with padded batches.

        Models with multimodal rotary positions compute their own (`get_rope_index`) from the attention mask.
        """
        model = self.checkpoint.model
        own = any(hasattr(m, "get_rope_index") for m in (model, getattr(model, "model", None)))
        return not own and "position_ids" in self.arguments

    @cached_property
    def arguments(self) -> frozenset[str]:
        """Names of the arguments that the model's forward declares."""
        return frozenset(inspect.signature(self.checkpoint.model.forward).parameters)

    def forward(self, inputs: dict[str, torch.Tensor], keep: int = 1) -> dict[str, Any]:
        """An encoded batch as arguments of one forward that keeps the logits of the last `keep` tokens."""
        dtype = next(self.checkpoint.model.parameters()).dtype
        moved = {
            name: value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
        }
        extra = {"logits_to_keep": keep} if self.backbone.keeps_logits else {}
        return {**moved, "use_cache": False, **extra}


def _check(checkpoint: Checkpoint, backbone: Backbone) -> CheckReport:
    tokenizer = checkpoint.tokenizer
    avoid = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    config = checkpoint.model.config.get_text_config()  # type: ignore[operator,union-attr]
    return check_model(checkpoint.model, backbone, min(len(tokenizer), int(config.vocab_size)), avoid)
