"""What the vision tower makes of an image, made once for each image of a study.

Prompts with examples show the same few images again and again, and a tower is a large part of a small model's forward.
An image is known by its pixels. What is remembered is used only where the tower was seen to give an image the same
bytes whatever other images share its batch; elsewhere it runs as the model calls it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

METHOD = "get_image_features"
"""The method of transformers' models that runs tower and projector."""

LIMIT = 2**28
"""Bytes of features that are remembered; those that were not used for longest are forgotten first."""

LEAST = 2
"""Images per run of the tower at least: products with a single row are summed in another order."""

Make = Callable[..., Any]


class ImageFeatures:
    """The features of images that one model has seen."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Begins empty.

        Args:
            limit: Bytes that are remembered.
        """
        self.limit, self.size = limit, 0
        self._found: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._apart: bool | None = None

    @contextmanager
    def kept(self, model: torch.nn.Module) -> Iterator[None]:
        """Within it, the model's forwards without gradients take the features of known images from memory.

        Modules of the tower do not run for those, so that nothing may be read there.

        Args:
            model: The model, whose weights do not change; of one that has no tower nothing is remembered.
        """
        owners = [module for module in model.modules() if hasattr(module, METHOD)]
        if not owners or METHOD in vars(owners[-1]):
            yield
            return
        owner = owners[-1]  # the others call it
        make: Make = getattr(owner, METHOD)

        def features(*args: Any, **kwargs: Any) -> Any:
            pixels: Any = args[0] if args else kwargs.get("pixel_values")
            others = [*args[1:], *(value for name, value in kwargs.items() if name != "pixel_values")]
            if torch.is_grad_enabled() or owner.training or not _separable(pixels, others):
                return make(*args, **kwargs)
            words = repr((others, str(pixels.dtype), str(pixels.device)))
            return self._features(make, pixels, words, args[1:], kwargs)

        setattr(owner, METHOD, features)
        try:
            yield
        finally:
            delattr(owner, METHOD)

    def _features(
        self, make: Make, pixels: torch.Tensor, words: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        names = [_name(image, words) for image in pixels]
        more = {name: value for name, value in kwargs.items() if name != "pixel_values"}

        def run(rows: Sequence[int]) -> Any:
            return make(pixels[list(rows)], *args, **more)

        first = {name: row for row, name in enumerate(names)}
        apart = self._apart
        if apart is None and len(first) > LEAST:
            made = _parts(run(list(first.values())), len(first))
            apart = self._apart = made is not None and _same_apart(made, run, list(first.values()))
            if made is not None and apart:
                self._remember({name: part.clone() for name, part in zip(first, made, strict=True)})
        if not apart:
            return run(range(len(names)))
        lacking = [row for name, row in first.items() if name not in self._found]
        known = {name: self._found[name] for name in first if name in self._found}
        for name in known:
            self._found.move_to_end(name)
        if lacking:
            rows = (lacking * LEAST)[: max(LEAST, len(lacking))]
            made = _parts(run(rows), len(rows))
            if made is None:
                return run(range(len(names)))
            known |= {names[row]: part.clone() for row, part in zip(rows, made, strict=True)}
            self._remember({names[row]: known[names[row]] for row in lacking})
        return _Features([known[name] for name in names])

    def _remember(self, made: Mapping[str, torch.Tensor]) -> None:
        self._found.update(made)
        self.size += sum(part.nbytes for part in made.values())
        while self.size > self.limit and self._found:
            self.size -= self._found.popitem(last=False)[1].nbytes


class _Features:
    """What a model reads of its tower's output."""

    def __init__(self, parts: list[torch.Tensor]) -> None:
        self.pooler_output = parts


def _separable(pixels: Any, others: Sequence[Any]) -> bool:
    """Whether each image is one entry of the pixels, on a CPU, and nothing else is said of it.

    Products on a GPU are done in ways that depend on the size of the batch.
    """
    plain = isinstance(pixels, torch.Tensor) and pixels.dim() == 4 and len(pixels) > 0 and pixels.device.type == "cpu"
    return plain and not any(isinstance(value, torch.Tensor) for value in others)


def _name(image: torch.Tensor, words: str) -> str:
    digest = hashlib.sha256(f"{words}{tuple(image.shape)}".encode())
    digest.update(image.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parts(output: Any, count: int) -> list[torch.Tensor] | None:
    """The features of each image, if the model gives them as a list of one tensor each."""
    parts: Any = getattr(output, "pooler_output", None)
    if not isinstance(parts, (list, tuple)) or len(parts) != count:
        return None
    return list(parts) if all(isinstance(part, torch.Tensor) for part in parts) else None


def _same_apart(every: Sequence[torch.Tensor], run: Callable[[Sequence[int]], Any], rows: Sequence[int]) -> bool:
    """Whether images get the same bytes in smaller batches and in another order."""
    known = dict(zip(rows, every, strict=True))
    for some in (rows[-2:], rows[:3][::-1]):
        parts = _parts(run(some), len(some))
        if parts is None or not all(torch.equal(known[row], part) for row, part in zip(some, parts, strict=True)):
            return False
    return True
