"""Features of images are made once, and are those that the model makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from xmi.model.image_features import METHOD, ImageFeatures


class Counted:
    """A model's own method, which counts the images that it is given."""

    def __init__(self, make: Any) -> None:
        self.make, self.images = make, 0

    def __call__(self, pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.images += len(pixels)
        return self.make(pixels, *args, **kwargs)


@pytest.fixture(scope="module")
def organism() -> xmi.VLM:
    return xmi.load("organism")


@pytest.fixture
def tower(organism: xmi.VLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Counted]]:
    owner = [module for module in organism.model.modules() if hasattr(module, METHOD)][-1]
    counted = Counted(getattr(owner, METHOD))
    monkeypatch.setattr(type(owner), METHOD, lambda _self, *args, **kwargs: counted(*args, **kwargs))
    yield owner, counted


def stacked(output: Any) -> torch.Tensor:
    return torch.stack(list(output.pooler_output))


def test_the_tower_sees_each_image_once_and_gives_the_same_bytes(tower: tuple[Any, Counted]) -> None:
    owner, counted = tower
    pixels = torch.randn(9, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    sets = [[0, 1, 2, 3], [0, 1, 2, 3], [3, 0, 4, 4], [8, 7, 6, 5, 0], [0], [5, 5]]
    memory = ImageFeatures()
    with torch.no_grad():
        plain = [stacked(owner.get_image_features(pixels[rows if len(rows) > 1 else rows * 2])) for rows in sets]
        counted.images = 0
        with memory.kept(owner):
            found = [stacked(owner.get_image_features(pixel_values=pixels[rows])) for rows in sets]
        assert counted.images == 4 + 2 + 3 + 2 + 4  # the first set and its check, then each image once, two at least
        for rows, one, two in zip(sets, plain, found, strict=True):
            assert torch.equal(one[: len(rows)], two)
        assert METHOD not in vars(owner)


def test_memory_is_bounded(tower: tuple[Any, Counted]) -> None:
    owner, _ = tower
    pixels = torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        size = stacked(owner.get_image_features(pixels[:2]))[0].nbytes
        memory = ImageFeatures(limit=3 * size)
        with memory.kept(owner):
            for start in (0, 0, 4, 0):
                found = stacked(owner.get_image_features(pixels[start : start + 4]))
                assert memory.size <= 3 * size
        assert torch.equal(found, stacked(owner.get_image_features(pixels[:4])))


@pytest.mark.parametrize("why", ["gradients", "another size of batch"])
def test_the_model_runs_as_it_is_where_that_is_not_the_same(tower: tuple[Any, Counted], why: str) -> None:
    owner, counted = tower
    pixels = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    if why != "gradients":
        make = counted.make

        def depends(pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            output = make(pixels, *args, **kwargs)
            output.pooler_output = [part + len(pixels) for part in output.pooler_output]
            return output

        counted.make = depends
    with torch.set_grad_enabled(why == "gradients"), ImageFeatures().kept(owner):
        owner.get_image_features(pixels)
        counted.images = 0
        for _ in range(2):
            owner.get_image_features(pixels)
    assert counted.images == 8


def test_a_study_runs_the_tower_about_once_for_each_image(
    organism: xmi.VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type([module for module in organism.model.modules() if hasattr(module, METHOD)][-1])
    make, seen, distinct = getattr(kind, METHOD), [0], set()

    def counted(self: Any, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() is False and len(pixel_values):
            seen[0] += len(pixel_values)
            distinct.update(image.numpy().tobytes() for image in pixel_values)
        return make(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(kind, METHOD, counted)
    small = {"tasks": ["country-capital"], "sources": ["image ICL"], "targets": ["image"], "seeds": [0, 1]}
    xmi.run("organism", out=tmp_path, on="serial", prompts=12, controls=[], experiments=[], **small)
    assert len(distinct) > 60 and seen[0] <= 1.1 * len(distinct), (seen, len(distinct))
