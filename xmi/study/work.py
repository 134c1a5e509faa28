"""The work of a study, cell by cell: a description that can be pickled, and models that are loaded where it is done."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

from xmi.errors import RunError
from xmi.loading import load, untrained
from xmi.prompt import Task
from xmi.study.cell import Memory
from xmi.study.experiments import registry
from xmi.study.experiments.experiment import Inputs
from xmi.study.folder import JOBS
from xmi.study.grid import Cell, needs_of, subjects
from xmi.study.store import Store
from xmi.versions import versions
from xmi.vlm import VLM

Say = Callable[[str], None]


def _silent(line: str) -> None:
    """Tells nobody."""


@dataclass
class Work:
    """What the cells of a study are computed from. Pickled, it leaves its models behind and loads them anew.

    Attributes:
        store: The run folder, with the plan and the identity of the study.
        cells: All of the study's cells.
        tasks: Its tasks, by their name in the plan.
        loading: Options of `xmi.load`.
    """

    store: Store
    cells: Sequence[Cell]
    tasks: Mapping[str, Task]
    loading: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Begins without models."""
        self._models: dict[str, VLM] = {}
        self._memory = Memory()

    def __getstate__(self) -> dict[str, Any]:
        """Only what is described."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begins anew."""
        self.__dict__.update(state)
        self.__post_init__()

    def models(self, tell: Say = _silent) -> dict[str, VLM]:
        """The study's models by name, loaded at the first call.

        Args:
            tell: Told one line per model.

        Raises:
            RunError: A model's files are not those that the study was begun with.
        """
        options = dict(self.loading)
        for name, one in subjects(self.store.plan).items() if not self._models else ():
            start = time.perf_counter()
            make = untrained if one.role == "untrained" else load
            vlm = make(one.source, revision=one.revision, **options)
            tell(f"loading and checking {name}  {time.perf_counter() - start:.1f} s")
            if one.role != "untrained" and vlm.revision != self.store.identity.models[name]:
                raise RunError(
                    f"The files of {one.source} changed while it was loaded. Run again once they are complete."
                )
            self._models[name] = vlm
        return self._models

    @contextmanager
    def opened(self, tell: Say = _silent) -> Iterator[None]:
        """Within it, what a study on a host sends is kept in the run folder."""
        with ExitStack() as stack:
            for vlm in self.models().values():
                stack.enter_context(
                    vlm.engine.backend.kept_in(self.store.path / JOBS, lambda line: tell(f"    {line}"))
                )
            yield

    def needs(self, cell: Cell) -> list[Cell]:
        """What must be finished before a cell."""
        return needs_of(cell, self.cells)

    def do(self, cell: Cell) -> float:
        """Does a cell and stores what it gives; returns the seconds that it took."""
        start, models = time.perf_counter(), self.models()
        backends = [vlm.engine.backend for vlm in models.values()]
        with ExitStack() as stack:
            for backend in backends:
                stack.enter_context(backend.about(cell.key))
            own = any(backend.keeps_requests for backend in backends)
            taken = {other: self.store.get(other) for other in self.needs(cell)}
            base = next((models[n] for n, one in subjects(self.store.plan).items() if one.role == "base"), None)
            memory = Memory() if own else self._memory
            inputs = Inputs(self.store.plan, self.tasks, models[cell.model], base, taken, memory)
            result = registry()[cell.kind].run(cell, inputs)
            self.store.put(cell, result, self.needs(cell), made_with(models[cell.model]))
        for backend in backends:
            backend.release(cell.key)
        return time.perf_counter() - start


def made_with(vlm: VLM) -> dict[str, str]:
    """Versions of what a cell's numbers depend on, precision and kind of device; a host's, if they come from there."""
    here = {"python": platform.python_version(), **versions(), "dtype": str(vlm.engine.dtype).removeprefix("torch.")}
    here["device"] = vlm.engine.backend.device(vlm.engine)
    return here | vlm.engine.backend.versions
