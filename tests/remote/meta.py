"""The embedded models as a client of the loopback server holds them: configuration and processor, no weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from nnsight import TransformersModel
from nnsight.modeling.huggingface import _ID_CACHE
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.remote.loopback import EMBEDDED
from xmi.kernels.residuals import stream_kernel

VLM = "xmi/organism"
PATHS = {"layers": "model.language_model.layers", "n_layers": 2}


@lru_cache(maxsize=1)
def meta() -> Any:
    """nnsight's model without weights, under the id that the server knows."""
    folder = str(EMBEDDED[VLM])
    _ID_CACHE[folder] = VLM  # a folder's id cannot be asked of the Hub
    return TransformersModel(folder, task="image-text-to-text", processor=AutoProcessor.from_pretrained(folder))


def on_meta() -> bool:
    return all(parameter.is_meta for parameter in meta()._module.parameters())


def reading(seed: int = 0, rows: int = 2) -> tuple[Any, tuple[Any, ...]]:
    """A call: the residual stream at the end of rows of random tokens, before and behind two blocks."""
    ids = torch.randint(10, 60, (rows, 6), generator=torch.Generator().manual_seed(seed))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    return stream_kernel, (inputs, PATHS, torch.arange(rows), torch.full((rows,), -1))


def seeing(*colours: str) -> tuple[Any, tuple[Any, ...]]:
    """A call: the residual stream of prompts with a picture each."""
    pictures = [Image.new("RGB", (40, 30), colour) for colour in colours]
    given = meta().processor(text=["<image> x"] * len(colours), images=pictures, return_tensors="pt")
    count = len(colours)
    return stream_kernel, ({**given, "use_cache": False}, PATHS, torch.arange(count), torch.full((count,), -1))


def expected(seed: int = 0, rows: int = 2) -> torch.Tensor:
    """What `reading` gives, from a plain forward of transformers."""
    inputs = reading(seed, rows)[1][0]
    with torch.no_grad():
        states = _plain()(**inputs, output_hidden_states=True).hidden_states
    return torch.stack([state[:, -1] for state in states[:3]], dim=1)


@lru_cache(maxsize=1)
def _plain() -> Any:
    return AutoModelForImageTextToText.from_pretrained(EMBEDDED[VLM], dtype=torch.float32).eval()
