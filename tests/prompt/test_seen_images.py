"""Images are processed once, and are what the processor makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

import xmi
from xmi.prompt.seen_images import SeenImages

Make = Callable[[list[Image.Image]], dict[str, Any]]


def picture(number: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8))


def plain(images: list[Image.Image]) -> dict[str, Any]:
    return {"pixel_values": torch.stack([torch.tensor(np.array(i), dtype=torch.float32) for i in images])}


def padded(images: list[Image.Image]) -> dict[str, Any]:
    side = max(max(image.size) for image in images)
    pixels = torch.zeros(len(images), side, side, 3)
    for row, image in zip(pixels, images, strict=True):
        row[: image.height, : image.width] = torch.tensor(np.array(image))
    return {"pixel_values": pixels}


def dimmed(images: list[Image.Image]) -> dict[str, Any]:
    values = plain(images)["pixel_values"]
    return {"pixel_values": values - values.mean()}


def masked(images: list[Image.Image]) -> dict[str, Any]:
    return plain(images) | {"pixel_attention_mask": torch.ones(len(images))}


class Tool:
    """An image processor that counts what it is given."""

    def __init__(self, make: Make) -> None:
        self.make, self.seen = make, 0

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        flat = [image for row in images for image in (row if isinstance(row, list) else [row])]
        self.seen += len(flat)
        return BatchFeature({n: v * options.get("factor", 1) for n, v in self.make(flat).items()})


@pytest.mark.parametrize(
    ("make", "processed"),
    [
        (plain, 3 + 3 + 0 + 2 + 0),  # the first set, what it is tried on, then each image once
        (padded, 3 + 3 + 0 + 2 + 0),
        (dimmed, 3 + 1 + 2 + 4 + 1),  # tried on one image, and called as it is from then on
        (masked, 3 + 0 + 2 + 4 + 1),
    ],
)
def test_what_others_do_not_change_is_made_once(make: Make, processed: int) -> None:
    tool, plainly = Tool(make), Tool(make)
    memory, sets = SeenImages(), [[0, 1, 1], [1, 0], [2, 0, 2, 3], [3]]
    with_memory = memory.by(tool)
    for rows in sets:
        images = [picture(number) for number in rows]
        assert torch.equal(with_memory(images)["pixel_values"], plainly(images)["pixel_values"])
    assert tool.seen == processed


def test_images_of_another_size_and_other_options_are_processed_anew() -> None:
    tool, plainly, memory = Tool(padded), Tool(padded), SeenImages()
    for images, factor in [
        ([picture(0), picture(1)], 1),
        ([picture(0), picture(2, (4, 4))], 1),  # padded to the larger one
        ([picture(2, (4, 4))], 1),
        ([[picture(0)], [picture(1)]], 2),
    ]:
        found, wanted = memory.by(tool)(images, factor=factor), plainly(images, factor=factor)
        assert torch.equal(found["pixel_values"], wanted["pixel_values"])


def test_memory_is_bounded() -> None:
    tool, memory = Tool(plain), SeenImages(limit=3 * 8 * 8 * 3 * 4)
    for start in (0, 0, 4, 0):
        images = [picture(start + number) for number in range(4)]
        assert torch.equal(memory.by(tool)(images)["pixel_values"], plain(images)["pixel_values"])
        assert memory.size <= memory.limit


@pytest.fixture
def organism() -> Iterator[xmi.VLM]:
    yield xmi.load("organism")


def test_a_model_is_given_the_same_inputs(organism: xmi.VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, counts = type(organism.encoder.processor.image_processor), [0]
    make = kind.preprocess

    def counted(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        counts[0] += sum(len(row) if isinstance(row, list) else 1 for row in images)
        return make(self, images, *args, **kwargs)

    monkeypatch.setattr(kind, "preprocess", counted)
    task, memory = xmi.task("country-capital"), SeenImages()
    sets = [task.icl("image", shots=3, n=4, seed=seed) for seed in (0, 0, 1)]
    plainly = [organism.encode(prompts).inputs for prompts in sets]
    counts[0] = 0
    for prompts, wanted in zip(sets, plainly, strict=True):
        with organism.encoder.remembering(memory):
            found = organism.encode(prompts).inputs
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    shown = {str(image) for prompts in sets for prompt in prompts for image in prompt.images}
    assert counts[0] <= 16 + 3 + len(shown)  # the first set whole, those it is tried on, and what came later
