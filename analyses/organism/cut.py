"""The entity cut, an inducement: below a random layer, entities are hidden from all tokens but their own.

It forces the reading of the entity to come late, after the task is known. The natural recipe does without.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaModel


def mask(spans: Tensor) -> Tensor:
    """Return which positions may be attended to, ``[batch, 1, position, position]``.

    That is: earlier ones, and of entities only one's own.

    Args:
        spans: Entity number per token, 0 for none, ``[batch, position]``.
    """
    length = spans.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    visible = (spans[:, None, :] == 0) | (spans[:, None, :] == spans[:, :, None])
    return (visible & causal)[:, None]


class Cut:
    """Hooks on a decoder's layers that apply the cut while `spans` is set.

    Args:
        decoder: The decoder to hook.
        lowest: Lowest layer from which entities may be visible again.
        highest: Highest such layer.
    """

    def __init__(self, decoder: LlamaModel, lowest: int = 2, highest: int = 5) -> None:
        self._range = (lowest, highest)
        self._mask: Tensor | None = None
        self._until = 0
        self._hooks = [
            layer.register_forward_pre_hook(self._hook(index), with_kwargs=True)
            for index, layer in enumerate(decoder.layers)
        ]

    def set(self, rng: random.Random, spans: Tensor | None) -> None:
        """Apply the cut to the next forwards, below a random layer, or lift it."""
        self._mask = None if spans is None else mask(spans)
        self._until = rng.randint(*self._range)

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            if self._mask is None or index >= self._until:
                return None
            return args, {**kwargs, "attention_mask": self._mask}

        return hook
