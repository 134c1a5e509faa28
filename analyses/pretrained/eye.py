"""What the vision tower sees in every picture, computed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from xmi.model.pretrained import MEAN, PIXELS, STD

BATCH = 64


def features(model: torch.nn.Module, pictures: np.ndarray, *, strength: float, seed: int) -> Tensor:
    """Reads pictures with the tower.

    Args:
        model: The tower.
        pictures: uint8 [n, height, width, 3].
        strength: How far pictures are changed first; 0 leaves them as they are.
        seed: Seed of the changes.

    Returns:
        bfloat16 [n, patches, width], row by row.
    """
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on a CPU
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([seen.to(torch.bfloat16) for seen in _seen(model, pictures, strength, generator)])


@torch.no_grad()
def _seen(
    model: torch.nn.Module, pictures: np.ndarray, strength: float, generator: torch.Generator
) -> Iterator[Tensor]:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    for first in range(0, len(pictures), BATCH):
        shown = torch.from_numpy(pictures[first : first + BATCH]).permute(0, 3, 1, 2).float() / 255
        if strength:
            shown = changed(shown, strength, generator)
        small = functional.interpolate(shown, (PIXELS, PIXELS), mode="bicubic", antialias=True).clamp(0, 1)
        given = ((small - mean) / std).contiguous(memory_format=torch.channels_last)
        yield model(given).last_hidden_state.flatten(2).transpose(1, 2)


def changed(shown: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Turns, scales, moves, mirrors and recolours pictures [n, 3, height, width] in 0..1, each in its own way."""
    n = len(shown)

    def about(spread: float, *shape: int) -> Tensor:
        return strength * spread * (torch.rand(n, *shape, generator=generator) - 0.5)

    zoom, turn, tall, side = 1 + about(1.1) + 0.3 * strength, about(0.8), 1 + about(0.4), torch.sign(about(1.0))
    frame = torch.stack(
        [zoom * turn.cos() * side, -zoom * turn.sin() * tall, about(0.4),
         zoom * turn.sin() * side, zoom * turn.cos() * tall, about(0.4)], dim=1,
    ).view(n, 2, 3)  # fmt: skip
    grid = functional.affine_grid(frame, list(shown.shape), align_corners=False)
    shown = functional.grid_sample(shown - 1, grid, align_corners=False) + 1  # what comes in from outside is white
    grey = shown.mean(1, keepdim=True)
    shown = grey + (shown - grey) * (1 - 2 * about(0.5, 1, 1, 1).clamp(min=0))
    mixed = torch.eye(3) + about(0.5, 3, 3)
    shown = torch.einsum("nij,njhw->nihw", mixed / mixed.sum(2, keepdim=True), shown)
    shown = (shown - 0.5) * (1 + about(0.6, 1, 1, 1)) + 0.5 + about(0.2, 1, 1, 1)
    noise = torch.randn(shown.shape, generator=generator)
    return (shown + 0.04 * about(1.0, 1, 1, 1).abs() * noise).clamp(0, 1)


def kept(file: Path, model: torch.nn.Module, pictures: np.ndarray, *, copies: int, strength: float) -> Tensor:
    """Returns the features of changed copies of pictures, computed once and kept in a file.

    Returns:
        bfloat16 [copies, n, patches, width].
    """
    if file.exists():
        return load_file(file)["features"]
    found = []
    for copy in range(copies):
        print(f"[features] copy {copy + 1} of {copies} of {len(pictures)} pictures", flush=True)
        found.append(features(model, pictures, strength=strength, seed=copy))
    part = file.with_suffix(".part")
    save_file({"features": torch.stack(found)}, part)
    part.rename(file)
    return load_file(file)["features"]
