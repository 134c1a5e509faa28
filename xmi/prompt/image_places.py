"""Where in its picture each token of an image lies, for the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice

import numpy as np
import torch
from jaxtyping import Int

from xmi.prompt.image_grid import Size, image_grids, image_runs, likely_image_id, places, tile_shapes, tile_side
from xmi.prompt.prompt import Prompt


def image_places(
    prompts: Sequence[Prompt],
    inputs: Mapping[str, torch.Tensor],
    first: Int[np.ndarray, "row column"],
    *,
    image_id: int | None,
    patch_grid: int | None,
) -> Int[np.ndarray, "row column 3"]:
    """Where in its picture each token of an image lies.

    Args:
        prompts: The prompts.
        inputs: What the processor made of them.
        first: Which segment each token begins in.
        image_id: The token that the processor names as that of images, if it names one: it counts where the tokens
            of the images do not show theirs.
        patch_grid: Patches per side of the vision tower, or None.

    Returns:
        For each token what `places` gives; -1 where there is no image or its layout is not known.
    """
    ids = inputs["input_ids"].numpy()
    where = [
        (row, np.flatnonzero(first[row] == i))
        for row, prompt in enumerate(prompts)
        for i, segment in enumerate(prompt.segments)
        if segment.image is not None
    ]
    regions = [ids[row, columns].tolist() for row, columns in where]
    own = {row: [r for r, (i, _) in zip(regions, where, strict=True) if i == row] for row, _ in where}
    shown = {row: likely_image_id(images) for row, images in own.items()}
    image_ids = {row: image_id if found is None else found for row, found in shown.items()}
    sizes: Sequence[Size | None] = image_grids(inputs, len(regions)) or [None] * len(regions)
    lengths = [
        [len(run) for run in image_runs(region, image_ids[row])]
        for region, (row, _) in zip(regions, where, strict=True)
    ]
    every = list(chain.from_iterable(lengths))
    side, shapes = tile_side(inputs, every, patch_grid), iter(tile_shapes(inputs, every))
    found = np.full((*ids.shape, 3), -1)
    for (row, columns), region, size, runs in zip(where, regions, sizes, lengths, strict=True):
        mine = list(islice(shapes, len(runs)))
        found[row, columns] = places(region, image_ids[row], size, side, patch_grid, mine)
    return found
