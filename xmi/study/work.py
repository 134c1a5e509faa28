"""The work of a study, cell by cell: a description that can be pickled, and models that are loaded where it is done."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from xmi.errors import RunError
from xmi.loading import load, untrained
from xmi.model.image_features import ImageFeatures
from xmi.prompt import Task
from xmi.prompt.seen_images import SeenImages
from xmi.proof import PROOF
from xmi.study.cell import Memory
from xmi.study.executors.executor import Done, Say
from xmi.study.experiments import registry
from xmi.study.experiments.experiment import Inputs
from xmi.study.folder import JOBS
from xmi.study.grid import Cell, needs_among, subjects
from xmi.study.store import Store
from xmi.versions import versions
from xmi.vlm import VLM


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
        self._needs = needs_among(self.cells)
        self._models: dict[str, VLM] = {}
        self._memory = Memory()
        self._features: dict[str, ImageFeatures] = defaultdict(ImageFeatures)
        self._seen: dict[str, SeenImages] = defaultdict(SeenImages)

    def __getstate__(self) -> dict[str, Any]:
        """Only what is described."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begins anew."""
        Work.__init__(self, **state)

    def names(self) -> list[str]:
        """The names of the study's models."""
        return list(subjects(self.store.plan))

    def model(self, name: str, tell: Say = _silent) -> VLM:
        """One of the study's models, loaded at the first call.

        Args:
            name: Its name in the study.
            tell: Told a line when it was loaded.

        Raises:
            RunError: Its files are not those that the study was begun with.
        """
        if name not in self._models:
            start, one, options = time.perf_counter(), subjects(self.store.plan)[name], dict(self.loading)
            make = untrained if one.role == "untrained" else load
            vlm = make(one.source, revision=one.revision, **options)
            tell(f"loading and checking {name}  {time.perf_counter() - start:.1f} s")
            if one.role != "untrained" and vlm.revision != self.store.identity.models[name]:
                raise RunError(
                    f"The files of {one.source} changed while it was loaded. Run again once they are complete."
                )
            self._models[name] = vlm
        return self._models[name]

    def facts(self, name: str, tell: Say = _silent) -> dict[str, Any]:
        """What a run folder says of a model, which is loaded for it."""
        vlm, one = self.model(name, tell), subjects(self.store.plan)[name]
        return {
            "role": one.role,
            "source": one.source,
            "revision": self.store.identity.models[name],
            **({"weights": vlm.revision} if one.role == "untrained" else {}),
            "class": type(vlm.model).__name__,
            "dtype": str(vlm.engine.dtype).removeprefix("torch."),
            "device": vlm.engine.backend.device(vlm.engine),
            "layers": vlm.backbone.n_layers,
            "width": vlm.backbone.d_model,
        }

    def hosts(self) -> dict[str, Any]:
        """What is to be known of the hosts that models are on, by the models' names."""
        return {name: found for name, vlm in self._models.items() if (found := vlm.engine.backend.provenance)}

    @contextmanager
    def opened(self, tell: Say = _silent) -> Iterator[None]:
        """Within it, what a study on a host sends is kept in the run folder."""
        with ExitStack() as stack:
            for vlm in self._models.values():
                stack.enter_context(
                    vlm.engine.backend.kept_in(self.store.path / JOBS, lambda line: tell(f"    {line}"))
                )
            yield
            self._release(PROOF)

    def needs(self, cell: Cell) -> Sequence[Cell]:
        """What must be finished before a cell."""
        return self._needs[cell]

    def do(self, cell: Cell) -> Done:
        """Does a cell; what it needs is read from the run folder, and nothing is written."""
        start, vlm = time.perf_counter(), self.model(cell.model)
        plan, needs = self.store.plan, self.needs(cell)
        base = next((name for name, one in subjects(plan).items() if one.role == "base"), None)
        backends = [one.engine.backend for one in self._models.values()]
        own = any(backend.keeps_requests for backend in backends)
        with ExitStack() as stack:
            for backend in backends:
                stack.enter_context(backend.about(cell.key))
            stack.enter_context(vlm.encoder.remembering(self._seen[cell.model]))
            if vlm.engine.dispatched:
                stack.enter_context(self._features[cell.model].kept(vlm.model))
            taken = {other: self.store.get(other) for other in needs}
            memory = Memory() if own else self._memory
            inputs = Inputs(plan, self.tasks, vlm, partial(self.model, base) if base else None, taken, memory)
            result = registry()[cell.kind].run(cell, inputs)
            files = self.store.pack(cell, result, needs, made_with(vlm))
        return Done(cell, files, time.perf_counter() - start)

    def keep(self, done: Done) -> None:
        """Stores a cell that was done, here or elsewhere."""
        self.store.put(done.files)
        self._release(done.cell.key)

    def parcel(self, cell: Cell) -> dict[str, bytes]:
        """The files of a finished cell that others take."""
        return self.store.parcel(cell)

    def receive(self, files: Mapping[str, bytes]) -> None:
        """Writes files of a cell into the folder."""
        self.store.put(files)

    def elsewhere(self, folder: Path, loading: Mapping[str, Any]) -> Work:
        """The same work without models, with another folder in place of the run folder and other options of loading."""
        return replace(self, store=replace(self.store, path=folder), loading=loading)

    def _release(self, label: str) -> None:
        for vlm in self._models.values():
            vlm.engine.backend.release(label)


def made_with(vlm: VLM) -> dict[str, str]:
    """Versions of what a cell's numbers depend on, precision and kind of device; a host's, if they come from there."""
    here = {"python": platform.python_version(), **versions(), "dtype": str(vlm.engine.dtype).removeprefix("torch.")}
    here["device"] = vlm.engine.backend.device(vlm.engine)
    return here | vlm.engine.backend.versions
