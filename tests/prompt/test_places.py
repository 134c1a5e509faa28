"""Every image token's place is where a change of pixels arrives when nothing mixes the patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

import xmi
from tests.zoo import grids, models, towers, unusual
from tests.zoo.models import build
from xmi.model.backbone import find_backbone
from xmi.prompt import Batch, Encoder, Prompt, Segment
from xmi.prompt.image_grid import image_grids, likely_image_id, patch_grid, places, tile_shapes, tile_side


class Seen:
    """A model whose vision tower mixes no patches: attention is zero outside of the language model."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.model, processor = build(make)
        self.layers = find_backbone(self.model).layers
        self.encoder = Encoder(processor.tokenizer, processor, patch_grid=patch_grid(self.model.config))
        for name, value in self.model.named_parameters():
            if not name.startswith(self.layers) and ("attn" in name or "attention" in name):
                value.data.zero_()

    def look(self, pixels: np.ndarray) -> tuple[Batch, torch.Tensor]:
        """The batch of one picture, and what its tokens are at the first block of the language model."""
        prompt = Prompt((Segment("image", image=Image.fromarray(pixels)), Segment("text", "Q:")))
        batch = self.encoder.encode([prompt])
        kept: list[torch.Tensor] = []

        def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append((args[0] if args else kwargs["hidden_states"]).clone())

        block = next(iter(self.model.get_submodule(self.layers).children()))
        handle = block.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with torch.no_grad():
                self.model(**batch.inputs)
        finally:
            handle.remove()
        return batch, kept[0][0]

    def influence(self, size: tuple[int, int], block: int) -> tuple[Batch, np.ndarray]:
        """How far each token moves when a block of pixels changes: [token, block row, block column]."""
        pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
        batch, before = self.look(pixels)
        moved = np.zeros((len(before), size[0] // block, size[1] // block))
        for i, j in np.ndindex(*moved.shape[1:]):
            other = pixels.copy()
            where = np.s_[i * block : (i + 1) * block, j * block : (j + 1) * block]
            other[where] = 255 - other[where]
            moved[:, i, j] = (self.look(other)[1] - before).abs().sum(-1)
        return batch, moved


def one(i: int, j: int) -> tuple[int, ...]:
    return (0, i, j)


def tile(i: int, j: int) -> tuple[int, ...]:
    """Tiles of two by two tokens, two of them side by side."""
    return (i // 2 * 2 + j // 2, i % 2, j % 2)


@pytest.mark.parametrize(
    ("make", "size", "block", "expected"),
    [
        (models.llava, (32, 32), 16, one),
        (models.qwen2_vl, (56, 56), 28, one),
        (models.idefics3, (64, 64), 16, tile),
        (towers.pixtral, (48, 32), 8, one),
        (unusual.fuyu, (24, 32), 8, one),
        (unusual.janus, (32, 32), 16, one),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_patch_of_pixels_moves_exactly_its_tokens(
    make: Callable[[], Any], size: tuple[int, int], block: int, expected: Callable[[int, int], tuple[int, ...]]
) -> None:
    """The picture is of the size at which the processor does not scale it, so that every pixel has one patch."""
    batch, moved = Seen(make).influence(size, block)
    for i, j in np.ndindex(*moved.shape[1:]):
        hit = [tuple(place) for place in batch.places(0)[moved[:, i, j] > 1e-4].tolist()]
        if expected is tile:  # the last tile is the picture as a whole, made smaller
            assert (4, i // 2, j // 2) in hit
            hit = [place for place in hit if place[0] < 4]
        assert hit == [expected(i, j)]


PLACED = (
    *(towers.gemma3, towers.mistral3, towers.internvl, towers.perception_lm, towers.lighton_ocr),
    *(towers.llava_next, towers.llava_onevision, towers.lfm2_vl, grids.minicpmv4_6),
    *(grids.gemma4, grids.llama4, grids.qwen2_5_vl, grids.paddleocr_vl, models.idefics3, unusual.fuyu),
)


@pytest.mark.parametrize("make", PLACED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(64, 96), (96, 48)], ids=str)
def test_places_lie_as_their_patches_do(make: Callable[[], Any], size: tuple[int, int]) -> None:
    """The picture is scaled, so influence smears: but its middle moves down with the row and right with the column."""
    batch, moved = Seen(make).influence(size, 16)
    where = batch.places(0)
    placed = where[:, 0] >= 0
    assert placed.any()
    assert (placed == (moved.sum((1, 2)) > 1e-4)).all(), "who has a place sees the picture, and nobody else"
    weight = moved[placed] ** 2 / (moved[placed] ** 2).sum((1, 2), keepdims=True)
    rows, columns = np.mgrid[: moved.shape[1], : moved.shape[2]]
    middle = np.stack([(weight * rows).sum((1, 2)), (weight * columns).sum((1, 2))], 1)
    for tile in set(where[placed, 0].tolist()):
        inside = where[placed, 0] == tile
        assert len(np.unique(where[placed][inside], axis=0)) == inside.sum()
        for axis in (0, 1):
            at, centre = where[placed][inside, 1 + axis], middle[inside, axis]
            below = at[:, None] < at
            assert (centre[:, None] < centre)[below].all()


PLACELESS = (
    *(towers.idefics2, towers.aria, grids.mllama, unusual.idefics),
    *(unusual.blip_2, unusual.instructblip, unusual.kosmos2),
)


@pytest.mark.parametrize("make", PLACELESS, ids=lambda make: make.__name__)
def test_latents_and_announcements_have_no_place(make: Callable[[], Any]) -> None:
    model, processor = build(make)
    encoder = Encoder(processor.tokenizer, processor, patch_grid=patch_grid(model.config))
    for size in ((64, 64), (64, 128)):
        prompt = xmi.free_prompt("<image>Q:", [Image.new("RGB", size, "red")])
        assert (encoder.encode(list(prompt)).places(0) == -1).all()


def test_the_grid_is_the_towers_unless_queries_look_for_themselves() -> None:
    found = {make.__name__: patch_grid(build(make)[0].config) for make in (models.llava, towers.gemma3, *PLACELESS)}
    assert (found["llava"], found["gemma3"]) == (2, 4)
    assert {found[name] for name in ("idefics2", "blip_2", "instructblip", "kosmos2")} == {None}


def test_every_image_of_a_batch_has_its_own_places() -> None:
    _, processor = build(models.qwen2_vl)
    encoder = Encoder(processor.tokenizer, processor)
    sizes = [(28, 56), (56, 28), (56, 56)]
    pictures = [Image.new("RGB", (w, h), "blue") for h, w in sizes]
    batch = encoder.encode(
        [*xmi.free_prompt("Q:<image>A<image>", pictures[:2]), *xmi.free_prompt("<image>", pictures[2:])],
        padding_side="right",
    )
    shapes = []
    for row in (0, 1):
        where, kinds = batch.places(row), batch.modalities(row)
        for kind in sorted({k for k in kinds if k.startswith("image")}):
            mine = where[[k == kind and place[0] >= 0 for k, place in zip(kinds, where, strict=True)]]
            shapes.append(tuple((mine.max(0) + 1)[1:].tolist()))
    assert shapes == [(1, 2), (2, 1), (2, 2)]


def test_views_of_several_pictures_are_whole() -> None:
    """LLaVA-OneVision shows one picture in tiles too, several only as a whole."""
    model, processor = build(towers.llava_onevision)
    encoder = Encoder(processor.tokenizer, processor, patch_grid=patch_grid(model.config))
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    tiles = [
        sorted(set(encoder.encode(list(xmi.free_prompt("<image>Q:" * n, pictures[:n]))).places(0)[:, 0].tolist()))
        for n in (1, 2)
    ]
    assert tiles == [[-1, 0, 1], [-1, 0]]


@pytest.mark.parametrize(("grid", "pixels", "reach"), [(24, 336, 3), (27, 384, 6)])
def test_a_view_with_cut_borders_is_never_misread(grid: int, pixels: int, reach: int) -> None:
    """Against the processors' own arithmetic, at the sizes of the real checkpoints."""
    tiles = [[pixels * a, pixels * b] for a in range(1, reach + 1) for b in range(1, reach + 1)]
    kind = hf.LlavaNextProcessor if reach == 3 else hf.LlavaOnevisionProcessor
    processor = kind.__new__(kind)
    processor.vision_aspect_ratio = "anyres_max_9"
    rng = np.random.default_rng(0)
    known = 0
    for height, width in [(1618, 1617), *rng.integers(200, 1600, (400, 2)).tolist()]:
        best = select_best_resolution([height, width], tiles)
        patches, ends = processor._get_unpadded_features(
            height, width, grid, grid, best[0] // pixels, best[1] // pixels
        )
        ids = [4] * (grid * grid + patches + ends)
        found = places(ids, 4, ("file", (1, height, width)), None, grid)
        if found.max() >= 0:
            known += 1
            assert found[-2].tolist() == [1, ends - 1, patches // ends - 1]
    assert known >= 390


def test_ends_of_rows_have_no_place() -> None:
    """Emu3 gives the end of a row the image's own id; its model says which they are."""
    model, processor = build(unusual.emu3)
    encoder = Encoder(processor.tokenizer, processor)
    batch = encoder.encode(list(xmi.free_prompt("<image>Q:", [Image.effect_noise((40, 24), 60).convert("RGB")])))
    names = ("pixel_values", "image_sizes")
    words = model.model.get_image_tokens(*(batch.inputs[name] for name in names))
    image = np.array(batch.tokens[0]) == "<image>"
    ends = (words == processor.tokenizer.convert_tokens_to_ids("<|extra_200|>")).numpy()
    where = batch.places(0)[image]
    assert ((where == -1).all(1) == ends).all()
    assert where[~ends].tolist() == [[0, *at] for at in np.ndindex(3, 5)]


class TestRules:
    """Each rule must account for every token, or it says nothing."""

    IMAGE, BREAK, END = 4, 5, 6

    def test_rows_are_ended_not_framed(self) -> None:
        row = [self.IMAGE] * 3 + [self.BREAK]
        assert places(row * 2 + [self.IMAGE] * 3 + [self.END], self.IMAGE, None, None).max(0).tolist() == [0, 2, 2]
        assert (places([self.BREAK, *row, *row], self.IMAGE, None, None) == -1).all()
        assert (places([*row, self.IMAGE, self.BREAK], self.IMAGE, None, None) == -1).all()
        assert (places([], self.IMAGE, None, None) == -1).all()

    def test_a_size_must_explain_the_count(self) -> None:
        ids = [self.IMAGE] * 6
        assert places(ids, self.IMAGE, ("patches", (1, 4, 6)), None)[-1].tolist() == [0, 1, 2]
        assert places(ids, self.IMAGE, ("patches", (2, 2, 6)), None)[3].tolist() == [1, 0, 0]
        for size in ((1, 5, 6), (1, 4, 4), (3, 4, 6)):
            assert (places(ids, self.IMAGE, ("patches", size), None) == -1).all()
        with_ends = places([self.IMAGE] * 8, self.IMAGE, ("pixels", (1, 16, 24)), None)
        assert with_ends.tolist()[3] == [-1] * 3 and with_ends.tolist()[4] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("shape", "runs", "grid", "side"),
        [
            ((1, 3, 32, 32), [16], 8, 4),  # one tile, patches merged two by two
            ((5, 3, 32, 32), [80], 8, 4),  # five tiles in one stretch
            ((4, 3, 32, 32), [256], 8, 8),  # four tiles, not one of 16 x 16
            ((4, 3, 32, 32), [64], 8, 4),  # four tiles of 4 x 4, not one of 8 x 8
            ((2, 3, 3, 32, 32), [16] * 4, 8, 4),  # empty tiles in the batch
            ((1, 3, 32, 32), [9], 8, None),  # no whole fraction of the grid
            ((1, 3, 32, 32), [15], 8, None),  # no square
            ((2, 3, 32, 32), [10, 22], 8, None),  # no whole tiles
            ((1, 3, 32, 32), [1], 8, None),  # only an announcement
            ((1, 3, 32, 32), [16], None, None),
            ((16, 588), [16], 8, None),  # patches, not pictures
            ((1, 3, 32, 32), [], 8, None),
        ],
    )
    def test_tiles_are_squares_of_the_grid(
        self, shape: tuple[int, ...], runs: list[int], grid: int | None, side: int | None
    ) -> None:
        pixels = torch.zeros(shape)
        assert tile_side({"pixel_values": pixels}, runs, grid) == side
        assert tile_side({"pixel_values": pixels, "image_sizes": torch.zeros(1, 2)}, runs, grid) is None

    def test_sizes_of_files_are_not_sizes_of_pictures(self) -> None:
        pixels = torch.zeros(2, 3, 32, 48)
        seen = image_grids({"pixel_values": pixels, "image_sizes": torch.tensor([[32, 32], [16, 48]])}, 2)
        assert seen == [("pixels", (1, 32, 32)), ("pixels", (1, 16, 48))]
        assert not image_grids({"pixel_values": pixels, "image_sizes": torch.tensor([[300, 320], [16, 48]])}, 2)
        tiled = image_grids({"pixel_values": pixels[None], "image_sizes": torch.tensor([[320, 480]])}, 1)
        assert tiled == [("file", (1, 320, 480))]
        assert (places([4] * 24, 4, tiled[0], None) == -1).all(), "without the tower's grid nothing is known"
        assert not image_grids({"image_grid_thw": torch.ones(3, 3)}, 2)

    def test_sizes_of_tiles_must_explain_every_stretch(self) -> None:
        sizes = {"spatial_shapes": torch.tensor([[4, 6], [2, 2]])}
        assert tile_shapes(sizes, [6, 1]) == [(2, 3), (1, 1)]
        assert tile_shapes(sizes, [24, 4]) == [(4, 6), (2, 2)]
        assert not tile_shapes(sizes, [6, 2])
        assert not tile_shapes(sizes, [6])

    def test_the_image_token_is_the_one_of_the_longest_stretch(self) -> None:
        assert likely_image_id([[5, 4, 4, 5, 4, 4, 5], [5, 4, 5]]) == 4
        assert likely_image_id([[5, 4, 5]]) is None
        assert likely_image_id([]) is None
