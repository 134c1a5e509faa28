"""A folder with a tiny VLM, its base LLM and tasks of eight items, for tests that run whole studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.zoo.models import NAMES_AND_CITIES, build, llama, llava


def make_world(root: Path, *, size: tuple[int, int] = (32, 32)) -> Path:
    """Writes the models `eye` and `base`, and the tasks `capital.json` and `name.json`; returns the folder."""
    for name, make in (("eye", llava), ("base", llama)):
        model, tool = build(make)
        model.save_pretrained(root / name)
        tool.save_pretrained(root / name)
    for k in range(8):
        pixels = np.random.default_rng(k).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{k}.png")
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    for task, column in (("capital", 1), ("name", 0)):
        items = [
            {"input": pair[1 - column], "output": pair[column], "image": f"{k}.png", "split": split}
            for k, (pair, split) in enumerate(zip(NAMES_AND_CITIES, splits, strict=True))
        ]
        content = {"name": f"<b>{task}", "instruction": "The capital:", "task_words": ["capital"], "items": items}
        (root / f"{task}.json").write_text(json.dumps(content), encoding="utf-8")
    return root
