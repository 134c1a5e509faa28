"""What does the cells of a study, what it is given, and how it is chosen."""

from __future__ import annotations

import pickle
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from xmi.study.grid import Cell
from xmi.study.plan import Running

if TYPE_CHECKING:
    from xmi.vlm import VLM

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """A cell that was done.

    Attributes:
        cell: The cell.
        files: What it gives to the run folder: contents by name, in the order in which they are to be written.
        seconds: How long it took.
    """

    cell: Cell
    files: Mapping[str, bytes]
    seconds: float


class Work(Protocol):
    """A study's work, as `xmi.study.work.Work` describes it: it can be pickled, and loads models where it is done."""

    @property
    def loading(self) -> Mapping[str, Any]:
        """Options of `xmi.load`."""

    def names(self) -> Collection[str]:
        """The names of the study's models."""

    def model(self, name: str, tell: Say) -> VLM:
        """One of them, loaded at the first call."""

    def facts(self, name: str, tell: Say) -> dict[str, Any]:
        """What is to be known of it, as the run folder says it; it is loaded."""

    def needs(self, cell: Cell) -> Collection[Cell]:
        """What must be finished, and stored, before a cell."""

    def do(self, cell: Cell) -> Done:
        """Does a cell; what it needs is read from the run folder, and nothing is written."""

    def parcel(self, cell: Cell) -> Mapping[str, bytes]:
        """The files of a finished cell that others read."""

    def elsewhere(self, folder: Path, loading: Mapping[str, Any]) -> Work:
        """The same work with another folder in place of the run folder, and further options of loading."""

    def receive(self, files: Mapping[str, bytes]) -> None:
        """Writes files of a cell into the folder."""


class Executor(ABC):
    """Says where cells are done. Entered before it is asked for anything; when it is left, nothing of it stays."""

    # How it is chosen

    @classmethod
    def check(cls, running: Running, loading: Mapping[str, Any]) -> None:
        """Refuses what it cannot do, before anything is loaded; asked of every kind, whichever is meant.

        Args:
            running: What the user asked for.
            loading: Options of `xmi.load`.

        Raises:
            RunError: Options that exclude each other, or a library that is missing.
        """
        return None

    @classmethod
    def loads_here(cls, running: Running) -> bool:
        """Whether models are loaded on this machine, where `running` means this kind."""
        return True

    @classmethod
    @abstractmethod
    def offer(cls, running: Running, work: Work, tell: Say) -> Executor | None:
        """The executor of a study, or None to leave it to the next kind.

        Args:
            running: What the user asked for.
            work: The study's work; models are loaded here only if the choice depends on them.
            tell: Told one line per model that is loaded.

        Raises:
            RunError: It is meant, and cannot do what was asked.
        """

    # What it does

    def __enter__(self) -> Executor:
        """Starts what cells are done by."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        return None

    def facts(self, work: Work, tell: Say) -> dict[str, dict[str, Any]]:
        """Loads the study's models where cells are done; here, in this process.

        Args:
            work: The study's work.
            tell: Told one line per model.

        Returns:
            What is to be known of each model, by its name.
        """
        return {name: work.facts(name, tell) for name in work.names()}

    @abstractmethod
    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[Done]:
        """Does cells, each after those it needs, and yields them as they are finished.

        Who takes a cell from the iterator stores it before taking the next one: cells that need it are begun then.

        Args:
            work: The study's work.
            cells: What to do, in the order of choice; what a cell needs and is not among them is finished.

        Raises:
            RunError: What was at work on a cell died.
            Exception: What a cell raised; nothing more is begun then.
        """


@dataclass(frozen=True)
class Failure:
    """An error that a cell raised in another process.

    Attributes:
        error: The error; in other words, if it cannot be pickled.
        trace: Where it was raised.
    """

    error: BaseException
    trace: str

    def raised(self, where: str) -> BaseException:
        """The error, with its trace as a note."""
        self.error.add_note(f"In the {where}:\n{self.trace}")
        return self.error


def fail(error: BaseException) -> Failure:
    """What is sent in place of an answer; to be called where the error is handled."""
    trace = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, trace)
