"""Where in the picture an image token looks: tile, row and column, where the geometry has them.

Rules instead of a table of models, each of which must account for every image token exactly:
- sizes that the processor gives along (`image_grid_thw`, `image_sizes`, or one per tile), with the merging that makes
  the counts match;
- the whole picture and then its tiles put together, whose borders are cut off and whose rows are ended;
- rows of equal length, each ended by a token of its own;
- otherwise stretches of the image token as long as the tower's patch grid is large, or a whole fraction of it.
What no rule explains has no place: latents of a resampler, queries, newlines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from math import isqrt
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

_LATENTS = re.compile(r"perceiver|resampler|qformer|num_query|query_num|to_query|latents|abstractor")
Size = tuple[str, tuple[int, int, int]]
"""In what an image's size is given (`patches`, `pixels`, or those of the `file`), and its frames, height and width."""
Grid = tuple[int, int, int, bool]
"""Tiles, rows and columns of an image's tokens, and whether one more token of the same id ends every row."""


def patch_grid(config: Any) -> int | None:
    """Patches per side of the vision tower, or None if the configuration does not say or the patches lose their places.

    Args:
        config: A model's configuration.
    """
    names = " ".join(_names(config.to_dict() if hasattr(config, "to_dict") else dict(config)))
    vision = getattr(config, "vision_config", None)
    size, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    size, patch = (value[0] if isinstance(value, (list, tuple)) and value else value for value in (size, patch))
    if not isinstance(size, int) or not isinstance(patch, int) or _LATENTS.search(names):
        return None
    return size // patch


def image_grids(inputs: Mapping[str, Any], count: int) -> list[Size | None]:
    """The size of every image, where the processor gives it along and it says which side is which.

    Args:
        inputs: What the processor gave.
        count: Number of images.

    Returns:
        One entry per image, or nothing if the inputs hold no sizes of the images as the tower sees them.
    """
    for name in ("image_grid_thw", "image_grid_hws"):
        grid = inputs.get(name)
        if isinstance(grid, torch.Tensor) and grid.dim() == 2 and len(grid) == count:
            return [("patches", (int(t[0]) if t else 1, int(h), int(w))) for *t, h, w in grid.tolist()]
    where = inputs.get("image_position_ids")
    if isinstance(where, torch.Tensor) and where.dim() == 3 and tuple(where.shape[::2]) == (count, 2):
        # Column and row of every patch in reading order; which is which shows where the second patch stands.
        ends, across = (where.amax(1) + 1).tolist(), (where[:, 1, 1] > where[:, 0, 1]).int().tolist()
        return [
            ("patches", (1, int(end[1 - k]), int(end[k]))) if min(end) > 1 else None
            for end, k in zip(ends, across, strict=True)
        ]
    sizes, pixels = inputs.get("image_sizes"), inputs.get("pixel_values")
    if isinstance(sizes, torch.Tensor) and isinstance(pixels, torch.Tensor) and tuple(sizes.shape) == (count, 2):
        # Beside tiles it is the size of the file, otherwise that of what the tower sees, or it is of no use.
        seen = pixels.dim() == 4 and len(pixels) == count and tuple(sizes.amax(0).tolist()) == tuple(pixels.shape[-2:])
        kind = "pixels" if seen else "file" if pixels.dim() == 5 else None
        return [(kind, (1, int(h), int(w))) for h, w in sizes.tolist()] if kind else []
    return []


def tile_side(inputs: Mapping[str, Any], runs: Sequence[int], grid: int | None) -> int | None:
    """Tokens per side of every tile, or None if tiles are not squares of tokens.

    Args:
        inputs: What the processor gave.
        runs: Lengths of all stretches of the image token in the batch.
        grid: Patches per side of the tower.
    """
    pixels = inputs.get("pixel_values")
    if not grid or not runs or "image_sizes" in inputs or not isinstance(pixels, torch.Tensor) or pixels.dim() < 4:
        return None  # beside tiles, the size of the file means that borders are cut off and ends of rows put in
    tiles, mask = int(np.prod(pixels.shape[:-3])), inputs.get("pixel_attention_mask")
    # A batch may hold empty tiles, which fill up prompts with fewer images; without a mask to say so each stretch must
    # be one tile then.
    if isinstance(mask, torch.Tensor) and mask.shape == (*pixels.shape[:-3], *pixels.shape[-2:]):
        tiles = int(mask.flatten(0, -3).flatten(1).any(1).sum()) or tiles
    count = sum(runs) // tiles if sum(runs) % tiles == 0 else runs[0] if len(set(runs)) == 1 else 0
    side = isqrt(count)
    whole = all(run % count == 0 for run in runs) if count else False
    # With one token it cannot be determined whether it is the picture or only announces it.
    return side if whole and side > 1 and side * side == count and grid % side == 0 else None


def tile_shapes(inputs: Mapping[str, Any], runs: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of every stretch of the image token, where the processor gives the size of every tile.

    Args:
        inputs: What the processor gave.
        runs: Lengths of all stretches of the image token in the batch.
    """
    for name in ("spatial_shapes", "target_sizes"):
        given = inputs.get(name)
        if isinstance(given, torch.Tensor) and tuple(given.shape) == (len(runs), 2):
            sizes = [(int(h), int(w)) for h, w in given.tolist()]
            for step in range(1, max(map(min, sizes)) + 1):
                shapes = [(-(-h // step), -(-w // step)) for h, w in sizes]
                if [rows * columns for rows, columns in shapes] == list(runs):
                    return shapes
    return []


def places(
    ids: Sequence[int],
    image_id: int | None,
    size: Size | None,
    side: int | None,
    grid: int | None = None,
    shapes: Sequence[tuple[int, int]] = (),
) -> Int[np.ndarray, "token 3"]:
    """Tile, row and column of each token of one image; -1 where there is none or it cannot be known.

    Args:
        ids: The image's tokens, with what frames them.
        image_id: The token that stands for a piece of the image.
        size: The image's entry of `image_grids`.
        side: Tokens per side of a tile.
        grid: Patches per side of the tower.
        shapes: The image's entries of `tile_shapes`.
    """
    found = np.full((len(ids), 3), -1)
    runs = image_runs(ids, image_id)
    seen = [i for run in runs for i in run]
    if shapes:
        for tile, (run, shape) in enumerate(zip(runs, shapes, strict=True)):
            found[run] = _raster((1, *shape, False))
            found[run, 0] = tile
        return found
    if size is not None and size[0] == "file":
        views = _views(len(seen), size[1], grid) if grid else []
        if views:
            found[seen] = np.concatenate(views)
        return found
    whole = _sized(len(seen), *size) if size else None
    if whole is None and size is None and side:
        whole = (len(seen) // side**2, side, side, False)
    whole = whole or _rows(ids, runs)
    if whole is not None:
        found[seen] = _raster(whole)
    return found


def image_runs(ids: Sequence[int], image_id: int | None) -> list[list[int]]:
    """The stretches of the image token."""
    return [list(run) for same, run in groupby(range(len(ids)), lambda i: ids[i] == image_id) if same]


def _raster(shape: Grid) -> Int[np.ndarray, "token 3"]:
    """Tile, row and column in reading order; -1 for the token that ends a row."""
    tiles, rows, columns, ended = shape
    where = np.stack(np.unravel_index(np.arange(tiles * rows * (columns + ended)), (tiles, rows, columns + ended)), 1)
    return np.where(where[:, 2:] < columns, where, -1)


def likely_image_id(regions: Sequence[Sequence[int]]) -> int | None:
    """The id that stands for pieces of images: the one of the longest stretch, or None if nothing is repeated.

    Processors name their image token too, but some name the one that announces the image.
    """
    longest = max(((len(list(run)), i) for region in regions for i, run in groupby(region)), default=(0, 0))
    return longest[1] if longest[0] > 1 else None


def _sized(count: int, kind: str, size: tuple[int, int, int]) -> Grid | None:
    """The grid of `count` tokens over an image of a known size, if one merging of its patches explains it."""
    tiles, height, width = size
    fitting = []
    for step in range(1, min(height, width) + 1):
        if height % step == 0 and width % step == 0:
            rows, columns = height // step, width // step
            for ended in (False, True) if kind == "pixels" else (False,):
                if tiles * rows * (columns + ended) == count:
                    fitting.append((tiles, rows, columns, ended))
    return fitting[0] if len(fitting) == 1 else None


def _views(count: int, size: tuple[int, int, int], grid: int | None) -> list[Int[np.ndarray, "token 3"]]:
    """The whole picture as one tile, then its parts put together as another, borders cut off and every row ended.

    How much is cut off is not told, but only few rectangles hold the tokens that are left, and at most one of them has
    the picture's shape.
    """
    side, (_, height, width) = grid or 0, size
    rest = count - side * side
    views = [_raster((1, side, side, False))]
    if rest > 1:
        shape = _shape(rest, height / width, side)
        if shape is None:
            return []
        views.append(_raster((1, *shape, True)))
        views[1][:, 0] = np.where(views[1][:, 0] < 0, -1, 1)
    elif rest == 1:
        views.append(np.full((1, 3), -1))
    return views if rest >= 0 else []


def _shape(count: int, aspect: float, side: int) -> tuple[int, int] | None:
    """Rows and columns of what is left of a larger view, every row ended by one more token."""
    if max(aspect, 1 / aspect) > side:
        return None  # nothing may be left of its short side
    fitting: list[tuple[float, bool, tuple[int, int]]] = []
    for rows in range(1, count // 2 + 1):
        columns = count // rows - 1
        if count % rows == 0 and columns:
            # A cut is exact to less than two tokens; the side that is not cut has whole tiles, unless all is scaled.
            errors = abs(rows - columns * aspect), abs(columns - rows / aspect)
            whole = (columns % side == 0 and errors[0] < 2) or (rows % side == 0 and errors[1] < 2)
            if min(errors) < 2:
                fitting.append((min(errors), whole, (rows, columns)))
    uncut = [fit for fit in fitting if fit[1]]
    best = uncut[0] if len(uncut) == 1 else fitting[0] if len(fitting) == 1 else None
    return best[2] if best and best[0] <= min(fitting)[0] + 0.5 and max(best[2]) >= side else None


def _rows(ids: Sequence[int], runs: list[list[int]]) -> Grid | None:
    """The grid of an image whose rows are each ended by one token, which does not stand before the first."""
    gaps = [tuple(ids[a[-1] + 1 : b[0]]) for a, b in pairwise(runs)]
    if len({len(run) for run in runs}) != 1 or len(set(gaps)) != 1 or len(gaps[0]) != 1:
        return None
    before = ids[runs[0][0] - 1] if runs[0][0] else None
    return (1, len(runs), len(runs[0]), False) if before != gaps[0][0] else None


def _names(config: Mapping[str, Any]) -> list[str]:
    """The names of the settings that are set, at every depth."""
    found = []
    for name, value in ((str(k), v) for k, v in config.items()):
        if isinstance(value, Mapping):
            found += [name, *_names(value)]
        elif value is not None and value is not False:
            found.append(name)
    return found
