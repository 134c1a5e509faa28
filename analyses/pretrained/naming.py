"""How well the model names pictures, by style: plain transformers, greedy, open vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from analyses.pretrained.captions import ASKED
from analyses.pretrained.pictures import HELD_OUT, entities
from xmi.measure import wilson

BATCH = 32


@torch.no_grad()
def said(folder: Path, pictures: list[np.ndarray]) -> list[str]:
    """Returns what a model says that pictures show, up to the end of its sentence."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    told = []
    for first in range(0, len(pictures), BATCH):
        images = [Image.fromarray(picture) for picture in pictures[first : first + BATCH]]
        inputs = processor(images=images, text=[ASKED.format(image="<image>")] * len(images), return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=7, do_sample=False, pad_token_id=processor.tokenizer.pad_token_id)
        told += processor.batch_decode(out[:, inputs.input_ids.shape[1] :])
    return [text.split(".")[0].split("\n")[0].strip() for text in told]


def naming(folder: Path, drawn: dict[str, dict[int, np.ndarray]]) -> list[dict[str, Any]]:
    """Asks a model what pictures show.

    Args:
        folder: The model.
        drawn: For each style, pictures by the number of their entity.

    Returns:
        A row per style: whether it was trained on, pictures, share of right names with Wilson's 95 % interval, and
        what was said where it was wrong, by name.
    """
    rows = []
    for style, pictures in drawn.items():
        names = [entities()[number]["name"] for number in pictures]
        told = said(folder, [*pictures.values()])
        # Right with either article: "a elephant" names the elephant.
        wrong = {name: text for name, text in zip(names, told, strict=True) if text not in (f"a {name}", f"an {name}")}
        share = wilson(1 - len(wrong) / len(names), len(names))
        rows.append({"style": style, "trained": style not in HELD_OUT, "n": len(names), "right": share.mean,
                     "low": share.low, "high": share.high, "wrong": wrong})  # fmt: skip
    return rows
