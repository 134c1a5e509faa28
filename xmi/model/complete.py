"""Whether a model was loaded from all of the weights in its files, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from xmi.errors import ModelError


def check_loading(source: str, loading: dict[str, Any], folder: Path | None) -> None:
    """Refuses a model whose weights are not those of the files: some would be random, or some of the files' unused.

    Args:
        source: What is loaded.
        loading: What transformers says of it, less what it knows to be harmless (heads for training that the
            architecture declares unused, rotary frequencies that older versions saved).
        folder: Where the files are.

    Raises:
        ModelError: Weights are lacking, are of another shape, or have no place in the model.
    """
    lacking = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in loading.get(kind, ()))
    if lacking:
        raise ModelError(
            f"{source} lacks {len(lacking)} of its model's weights ({_some(lacking)}); they would be random. The files "
            "are incomplete, or were saved by another version of transformers: get them again, or install that version."
        )
    unused = {str(name) for name in loading.get("unexpected_keys", ())}
    if unused and folder is not None:
        unused -= set(_masks(folder, unused))
    if unused:
        raise ModelError(
            f"{source} holds {len(unused)} weights that its model has no place for ({_some(sorted(unused))}): part of "
            "what was trained would be left out. Its configuration is of another model (one of fewer layers, say), or "
            "of another version of transformers: get the files again, or install that version."
        )


def _masks(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Those of the names under which older versions of transformers saved causal masks and their filling."""
    wanted = set(names)
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        for name, value in _tensors(path, wanted):
            square = value.dim() >= 2 and value.shape[-1] == value.shape[-2] and value.numel() == value.shape[-1] ** 2
            if value.numel() == 1 or (square and torch.equal(value != 0, torch.ones_like(value).tril() != 0)):
                yield name


def _tensors(path: Path, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    if path.suffix == ".bin":
        for name, value in torch.load(path, map_location="cpu", weights_only=True, mmap=True).items():
            if name in wanted:
                yield name, value
        return
    with safe_open(str(path), framework="pt") as stream:
        for name in wanted & set(stream.keys()):
            yield name, stream.get_tensor(name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
