"""The records of a run folder, a line of JSON each: there may be more of them than memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json


@dataclass(frozen=True)
class RecordsFile:
    """Records, read one after another or each by its place.

    Attributes:
        path: The file.
    """

    path: Path

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All records in the order of the file, each with its place."""
        place = 0
        with self.path.open("rb") as lines:  # as bytes: a token may hold a line separator of Unicode
            for line in lines:
                yield place, _read(line)
                place += len(line)

    def at(self, places: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The records that begin at such places."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield _read(file.readline())


def _read(line: bytes) -> dict[str, Any]:
    record: dict[str, Any] = from_json(line, cache_strings="all")  # the same words over and over
    return record
