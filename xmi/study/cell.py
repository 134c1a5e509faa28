"""What a cell gives to the run folder, and what a process remembers from one cell to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xmi.measure import Answers, Phases, Result, Transfer
from xmi.vector import TaskVector

T = TypeVar("T")


@dataclass(frozen=True)
class CellResult:
    """What was measured in a cell.

    Attributes:
        answers: Prompting cells on test items, by `source > target`.
        transfers: Sweeps by `target.split`.
        phases: Phases by specification.
        vectors: Task vectors that were read or made, by task (as the plan names it) and source.
        part: Tensors of its own: what they are called in the cell's file, and the content of a safetensors file.
        result: What an experiment of its own found, as one result or several by name.
        records: Every model answer, as it is stored.
        images: The images that the records name, as PNG files.
    """

    answers: dict[str, Answers] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    phases: dict[str, Phases] = field(default_factory=dict)
    vectors: dict[tuple[str, str], TaskVector] = field(default_factory=dict)
    part: tuple[str, bytes] | None = None
    result: Result | dict[str, Result] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)


class Memory:
    """What was computed in this process: prompts that no seed changes (instructions) are asked once."""

    def __init__(self) -> None:
        """Begins empty."""
        self._found: dict[tuple[Any, ...], Any] = {}

    def __call__(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Returns what `make` gives, made at the first call with a key."""
        if key not in self._found:
            self._found[key] = make()
        result: T = self._found[key]
        return result
