"""Prompts and answers, packed in blocks, of which a page holds as many as fit.

The first block holds the first answer of every list, the next one a few more of every list, and so on (`CUTS`). What
does not fit is left out from the last block on, so that no list goes empty while another is whole.

Every block is complete in itself, a JSON list. An answer in it is a list; a string, a prompt, the layers of a sweep and
the name of an image stand once, before the first answer that refers to them by number. So a block's size is known while
it grows.
"""

from __future__ import annotations

import base64
import io
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from pydantic_core import to_json

from xmi.report.packing import Stream, packed_json

IMAGE_BUDGET = 1_000_000
"""Bytes that all images together may take on the page; beyond it they are shrunk."""

CUTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38, 48, 60, 75, 95, 120, 150, 190, 240, 300, 400, 600, 1000)
"""Where the lists are cut into blocks: after so many answers of each."""


@dataclass(frozen=True)
class Packed:
    """The answers that a page holds.

    Attributes:
        blocks: Base64 of the gzipped JSON of each block.
        pictures: The same of the images, data URIs by name.
        shown: How many answers the blocks hold.
        total: How many the study holds.
    """

    blocks: tuple[str, ...]
    pictures: str
    shown: int
    total: int


class Block:
    """Answers of all lists between two cuts, compressed as they come.

    Attributes:
        stream: The text so far.
        images: Names of the images that the answers show.
        shown: How many answers it holds.
    """

    def __init__(self) -> None:
        """Begins empty."""
        self.stream = Stream()
        self.images: dict[Any, int] = {}
        self.shown = 0
        self._strings: dict[Any, int] = {}
        self._prompts: dict[Any, int] = {}
        self._layers: dict[Any, int] = {}
        self._empty = True

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Adds the answer of a record to the list of that number."""
        self._write([number, *self._entry(record)])
        self.shown += 1

    def close(self) -> None:
        """Ends the list."""
        self.stream.write(b"[]" if self._empty else b"]")
        self.stream.close()

    def _entry(self, record: dict[str, Any]) -> list[Any]:
        """What the page shows of an answer, or of the answers at every layer."""
        prompt = self._number("prompt", self._prompts, tuple(self._segment(s) for s in record["prompt"]))
        head = [prompt, self._string(record["answer"]), record.get("seed")]
        predicted, paper = record["predicted"], record["paper"]
        if not isinstance(paper, list):
            numbers = [round(float(record["log_probability"]), 2), int(record["rank"])]
            return [*head, self._string(predicted), *numbers, int(paper), int(record["strict"])]
        layers = self._number("layers", self._layers, tuple(record.get("layers", range(len(paper)))))
        likelihood = list(map(round, record["log_probability"], repeat(2)))
        hits = "".join("1" if hit else "0" for hit in paper)
        try:  # one in a thousand is new
            words = list(map(self._strings.__getitem__, predicted))
        except KeyError:
            words = list(map(self._string, predicted))
        return [*head, words, likelihood, record["rank"], hits, layers]

    def _segment(self, segment: dict[str, Any]) -> int:
        """A text by its number, an image by the bitwise complement of its own."""
        if "image" in segment:
            return ~self._number("image", self.images, Path(str(segment["image"])).name)
        return self._string(segment["text"])

    def _string(self, value: object) -> int:
        return self._number("", self._strings, str(value))

    def _number(self, kind: str, known: dict[Any, int], value: Any) -> int:
        """The number of a value, which is written down when it comes first."""
        if value not in known:
            known[value] = len(known)
            self._write({kind: value} if kind else value)
        return known[value]

    def _write(self, value: Any) -> None:
        self.stream.write((b"[" if self._empty else b",") + to_json(value))
        self._empty = False


class Blocks:
    """All answers of a study, in blocks.

    Attributes:
        total: How many answers there are, those that no page can hold included.
    """

    def __init__(self, read: Callable[[Iterable[int]], Iterator[dict[str, Any]]]) -> None:
        """Begins empty.

        Args:
            read: Gives the records that begin at such places.
        """
        self.total = 0
        self._read = read
        self._numbers, self._places = ([array("q") for _ in range(len(CUTS) + 1)] for _ in range(2))

    def add(self, number: int, position: int, place: int) -> None:
        """Adds an answer.

        Args:
            number: The number of its list.
            position: How many answers of that list came before.
            place: Where its record begins.
        """
        self.total += 1
        at = bisect_right(CUTS, position)
        self._numbers[at].append(number)
        self._places[at].append(place)

    def within(self, size: int, images: Path) -> Packed:
        """As many blocks as fit, with their images.

        Args:
            size: Bytes that they may take.
            images: The folder of the images.
        """
        fitting = self._first(size)
        names = dict.fromkeys(name for block in fitting for name in block.images)
        pictures = packed_json(dict(zip(names, shrunk(images, list(names)), strict=True)))
        kept, left = [], size - len(pictures)
        for block in fitting:
            left -= block.stream.size
            if left < 0:
                break
            kept.append(block)
        shown = sum(block.shown for block in kept)
        return Packed(tuple(block.stream.packed() for block in kept), pictures if kept else "", shown, self.total)

    def _first(self, size: int) -> list[Block]:
        """The first blocks, as many as fit without their images."""
        kept: list[Block] = []
        for numbers, places in zip(self._numbers, self._places, strict=True):
            if not places:
                continue
            block = Block()
            for number, record in zip(numbers, self._read(places), strict=True):
                block.add(number, record)
                if block.stream.size > size:
                    return kept
            block.close()
            size -= block.stream.size
            if size < 0:
                return kept
            kept.append(block)
        return kept


def shrunk(folder: Path, names: list[str]) -> list[str]:
    """Data URI of each image, shrunk until all fit the budget; an unreadable one has an empty URI."""
    uris: list[str] = []
    for size in (96, 64, 48, 32, 20):
        uris = [_uri(folder / name, size) for name in names]
        if sum(map(len, uris)) <= IMAGE_BUDGET:
            break
    return uris


def _uri(path: Path, size: int) -> str:
    try:
        with Image.open(path) as image:
            if max(image.size) <= size and path.suffix.lower() == ".png" and path.stat().st_size < 6000:
                return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            small = image.convert("RGBA" if image.mode in ("RGBA", "LA", "P") else "RGB")
    except (OSError, UnidentifiedImageError):
        return ""
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
