"""What an image processor makes of an image, made once for each image of a study.

Prompts with examples show the same few images again and again. An image is known by its pixels. What is remembered is
used only where the processor was seen to make the same bytes of an image whatever others it is given with; elsewhere it
is called as it is.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from xmi.shown import Shown

LIMIT = 2**28
"""Bytes of pixels that are remembered; those that were not used for longest are forgotten first."""

PIXELS = "pixel_values"
"""The one thing that a processor may give, if what it makes of an image is to be remembered."""


class SeenImages(Shown):
    """The images that one image processor has seen."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Begins empty.

        Args:
            limit: Bytes that are remembered.
        """
        self.limit, self.size = limit, 0
        self._found: OrderedDict[str, Any] = OrderedDict()
        self._apart: bool | None = None

    def by(self, tool: Any) -> Any:
        """A stand-in for the image processor, which remembers."""
        return _StandIn(tool, self)

    def give(self, tool: Any, images: Any, options: Mapping[str, Any]) -> Any:
        """What the processor makes of images.

        Args:
            tool: The image processor.
            images: Images, or a list of them for each prompt.
            options: What it is called with besides them.
        """
        flat = [image for row in images for image in (row if isinstance(row, (list, tuple)) else [row])]
        plain = all(isinstance(image, Image.Image) for image in flat) and _is_plain(options)
        if self._apart is False or not plain:
            return tool(images, **options)
        names = [_name(image, repr(sorted(options.items()))) for image in flat]
        first = dict(zip(names[::-1], flat[::-1], strict=True))
        lacking = [name for name in first if name not in self._found]
        if self._apart is None:
            return self._try(tool, images, options, names, first)
        made = _parts(tool([first[name] for name in lacking], **options), len(lacking)) if lacking else []
        known = {name: self._found[name] for name in first if name in self._found}
        if made is None or len({_form(part) for part in (*known.values(), *made)}) > 1:
            return tool(images, **options)
        for name in known:
            self._found.move_to_end(name)
        new = dict(zip(lacking, made, strict=True))
        self._remember(new)
        parts = [{**known, **new}[name] for name in names]
        return self._kind({PIXELS: torch.stack(parts) if isinstance(parts[0], torch.Tensor) else parts})

    def _try(
        self, tool: Any, images: Any, options: Mapping[str, Any], names: Sequence[str], first: Mapping[str, Image.Image]
    ) -> Any:
        """Calls the processor with all images, and with several of them in another way, to see whether that matters."""
        output = tool(images, **options)
        made = _parts(output, len(names))
        if made is None or len(first) > 1:
            self._apart = made is not None and len({_form(part) for part in made}) == 1
        if made is not None and self._apart:
            known = dict(zip(names, made, strict=True))
            for some in (list(first)[:1], list(first)[-2:][::-1]):
                again = _parts(tool([first[name] for name in some], **options), len(some))
                if again is None or not all(map(_same, again, [known[name] for name in some])):
                    self._apart = False
                    return output
            self._kind = type(output)
            self._remember({name: known[name] for name in first})
        return output

    def _remember(self, made: Mapping[str, Any]) -> None:
        self._found.update({name: part.clone() if hasattr(part, "clone") else part for name, part in made.items()})
        self.size += sum(part.nbytes for part in made.values())
        while self.size > self.limit and self._found:
            self.size -= self._found.popitem(last=False)[1].nbytes


class _StandIn:
    """Looks like an image processor."""

    def __init__(self, tool: Any, seen: SeenImages) -> None:
        self._tool, self._seen = tool, seen

    def __call__(self, images: Any, *args: Any, **options: Any) -> Any:
        return self._tool(images, *args, **options) if args else self._seen.give(self._tool, images, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)


def _is_plain(value: Any) -> bool:
    """Whether a value says all that it is when it is written down."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (str, int, float))


def _name(image: Image.Image, words: str) -> str:
    digest = hashlib.sha256(f"{words}{image.mode}{image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _parts(output: Any, count: int) -> list[Any] | None:
    """What was made of each image, if there is nothing else."""
    if not isinstance(output, Mapping) and not hasattr(output, "keys"):
        return None
    pixels = output[PIXELS] if set(output.keys()) == {PIXELS} else None
    if pixels is None or len(pixels) != count or not all(hasattr(part, "nbytes") for part in pixels):
        return None
    return list(pixels)


def _form(part: Any) -> tuple[Any, ...]:
    return type(part), tuple(part.shape), part.dtype


def _same(one: Any, other: Any) -> bool:
    return _form(one) == _form(other) and bool((one == other).all())
