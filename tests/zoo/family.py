"""A model family of the zoo: how to build a tiny one, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Made = tuple[torch.nn.Module, Any]
"""A tiny random model of a real architecture, with its processor (or its tokenizer, for a text-only model)."""


@dataclass(frozen=True)
class Family:
    """One architecture as transformers has it.

    Attributes:
        name: As its authors write it: `LLaVA-NeXT`.
        model_type: Its key in transformers' auto classes: `llava_next`.
        make: Builds model and processor without any download.
        images: How many images a prompt takes and where: `many` (anywhere), `alike` (anywhere, as many in every prompt
            of a batch), `one` (anywhere), `first` (one, before all text), or `none` (text only).
        note: What is special about it, in one line.
        partial: Claims that do not hold for it, each with the reason; the others must hold.
        unpacked: If its patched runs cannot share a forward and become rows of their own: why.
        refused: If xmi refuses the family: a regular expression that the message must match.
    """

    name: str
    model_type: str
    make: Callable[[], Made]
    images: Literal["many", "alike", "one", "first", "none"] = "many"
    note: str = ""
    partial: Mapping[str, str] = field(default_factory=dict)
    unpacked: str = ""
    refused: str = ""


def build(make: Callable[[], Made]) -> Made:
    """Builds a model with fixed weights, in eval mode and float32."""
    torch.manual_seed(0)
    model, tool = make()
    return model.eval().float(), tool
