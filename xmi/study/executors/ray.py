"""Cells on every GPU or core of a node, or of a cluster, by Ray: actors load the models, this process alone writes."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from xmi.backend import backend_for
from xmi.errors import RunError
from xmi.faults import short
from xmi.study.executors import named
from xmi.study.executors.executor import Done, Executor, Failure, Say, Work, fail
from xmi.study.executors.ray_session import session
from xmi.study.executors.schedule import Losses, Lost, drive
from xmi.study.grid import Cell
from xmi.study.plan import Running


def _device(loading: Mapping[str, Any]) -> str | None:
    device = loading.get("device")
    return None if device is None else torch.device(device).type


class Ray(Executor):
    """Does cells in actors, each of which loads the models it needs once.

    What a cell needs goes through Ray's object store, what it gives comes back to this process. An actor that dies is
    replaced, and its cell begun again.
    """

    @classmethod
    def check(cls, running: Running, loading: Mapping[str, Any]) -> None:
        """Refuses models that are on a host, a GPU that Ray is to choose, GPUs without Ray, and a missing library."""
        on, gpus = running.on, running.gpus_per_model
        if named(on) is not cls:
            if gpus is not None:
                raise RunError(f"gpus_per_model={gpus:g} is for on: ray, which loads a model per worker.")
            return
        if not backend_for(loading.get("remote")).needs_weights:
            raise RunError(
                f"on: {on} loads models where cells are done, and remote: {loading['remote']} has them on a host, "
                "whose queue does the scheduling. Leave one of them out."
            )
        try:
            device = torch.device(loading.get("device") or "cuda")
        except (RuntimeError, TypeError) as error:
            raise RunError(f"device={loading['device']}: there is no such kind of device. Say cuda or cpu.") from error
        if ":" in str(device):
            raise RunError(
                f"device={device}: Ray gives each copy of the models its own GPU. Say cuda, or leave it out."
            )
        if gpus is not None and device.type == "cpu":
            raise RunError(f"gpus_per_model={gpus:g} with device=cpu: leave one of them out.")
        if find_spec("ray") is None:
            raise RunError(f"on: {on} needs Ray: pip install 'xmi[ray]'.")

    @classmethod
    def loads_here(cls, running: Running) -> bool:
        """Whether it is a Ray of this machine's own, or a cluster."""
        return running.on == "ray"

    @classmethod
    def offer(cls, running: Running, work: Work, tell: Say) -> Ray | None:
        """Takes a study that Ray is asked to do."""
        return cls(running, tell, _device(work.loading)) if named(running.on) is cls else None

    def __init__(self, running: Running, tell: Say, device: str | None = None) -> None:
        """Describes it.

        Args:
            running: Where, by how many, and with how many GPUs each.
            tell: Told a line when actors start or die.
            device: Where models are to be loaded; None for a GPU if there is one.
        """
        self._running, self._tell, self._device = running, tell, device
        self._crew: _Crew | None = None

    def __enter__(self) -> Ray:
        """Starts a local Ray, or finds the cluster."""
        self._open = ExitStack()
        self._ray, self._scratch, self._count = self._open.enter_context(session(self._running, self._device))
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the actors, and a local Ray with all its files."""
        self._open.close()

    def facts(self, work: Work, tell: Say) -> dict[str, dict[str, Any]]:
        """As `Executor.facts`: each model is loaded by an actor, several at the same time."""
        crew, losses = self._hired(work), Losses()
        todo, found = list(work.names()), dict[str, dict[str, Any]]()
        busy: dict[Any, tuple[int, str]] = {crew.hire(worker): (worker, "") for worker in range(crew.count)}
        while len(found) < len(work.names()):
            for handle in crew.wait(list(busy)):
                worker, name = busy.pop(handle)
                answer = crew.answer(handle, worker, f"actor that loads {name}")
                if isinstance(answer, Lost):
                    losses.add(name and f"the model {name}", answer)
                    todo += [name] if name else []
                    busy[crew.hire(worker)] = worker, ""
                    continue
                if name:
                    found[name], seconds = answer
                    tell(f"loading and checking {name}  {seconds:.1f} s")
                if todo:
                    name = todo.pop(0)
                    busy[crew.load(worker, name)] = worker, name
        return {name: found[name] for name in work.names()}

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[Done]:
        """As `Executor.each`."""
        crew = self._hired(work)
        return drive(work, cells, crew, min(crew.count, len(cells)), crew.loaded)

    def _hired(self, work: Work) -> _Crew:
        if self._crew is None:
            count, gpus = self._count
            loading = dict(work.loading)
            if gpus > 1 and loading.get("device_map") is None:
                loading |= {"device": None, "device_map": "auto"}
            each = f"{gpus:g} GPU{'s' if gpus > 1 else ''} each" if gpus else "a core each"
            self._tell(f"Ray: {count} actor{'s' if count > 1 else ''}, {each}")
            self._crew = _Crew(self._ray, work, count, gpus, loading, self._scratch, self._tell)
            self._open.callback(self._crew.end)
        return self._crew


class _Crew:
    """Actors, by their numbers; what one is at has an object reference of Ray for a handle."""

    def __init__(
        self, ray: Any, work: Work, count: int, gpus: float, loading: Mapping[str, Any], scratch: str | None, tell: Say
    ) -> None:
        self.count, self.loaded = count, defaultdict[int, set[str]](set)
        self._ray, self._work, self._tell = ray, work, tell
        self._kind = ray.remote(_Actor).options(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        self._given = ray.put(work), dict(loading), scratch
        self._actors: dict[int, Any] = {}
        self._sent: dict[int, set[Cell]] = defaultdict(set)
        self._parcels: dict[Cell, Any] = {}

    def hire(self, worker: int) -> Any:
        if worker not in self._actors:
            self._actors[worker] = self._kind.remote(*self._given)
        return self._actors[worker].ready.remote()

    def load(self, worker: int, name: str) -> Any:
        self.loaded[worker].add(name)
        return self._actors[worker].facts.remote(name)

    def give(self, worker: int, cell: Cell) -> Any:
        new = [other for other in self._work.needs(cell) if other not in self._sent[worker]]
        self._sent[worker].update(new)
        return self._actors[worker].do.remote(cell, [self._parcel(other) for other in new])

    def _parcel(self, cell: Cell) -> Any:
        if cell not in self._parcels:
            self._parcels[cell] = self._ray.put(self._work.parcel(cell))
        return self._parcels[cell]

    def wait(self, handles: Sequence[Any]) -> list[Any]:
        ready: list[Any] = self._ray.wait(handles, num_returns=1)[0]
        return ready

    def take(self, handle: Any, worker: int, cell: Cell | None) -> Done | Lost | None:
        found: Done | Lost | None = self.answer(handle, worker, f"actor at work on {cell.key}" if cell else "actor")
        return found

    def answer(self, handle: Any, worker: int, what: str) -> Any:
        """What an actor returned, or that it died; raises what it raised."""
        try:
            found = self._ray.get(handle)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            self._ray.kill(self._actors.pop(worker))
            self._sent.pop(worker, None), self.loaded.pop(worker, None)
            said = " ".join(str(error).split())
            detail = re.search(r"exit detail: ([^.]*)", said)  # Ray says a lot before
            why = detail[1] if detail else short(said, 200)
            self._tell(f"    The {what} died; another one takes its place. ({why})")
            return Lost(why)
        if isinstance(found, Failure):
            raise found.raised(what)
        return found

    def end(self) -> None:
        if self._given[-1] is None:  # elsewhere, nobody else removes their folders
            closed = [actor.close.remote() for actor in self._actors.values()]
            self._ray.wait(closed, num_returns=len(closed), timeout=2)
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor)


class _Actor:
    """A process of Ray's with its own copy of the models, and a folder in place of the run folder."""

    def __init__(self, work: Work, loading: Mapping[str, Any], scratch: str | None) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(1)  # sums differ in their last bits by the number of threads
        self._limits = threadpool_limits(1)
        self._folder = tempfile.TemporaryDirectory(prefix="xmi-actor-", dir=scratch, ignore_cleanup_errors=True)
        self._work = work.elsewhere(Path(self._folder.name), loading)

    def ready(self) -> None:
        """Answers."""

    def facts(self, name: str) -> tuple[dict[str, Any], float] | Failure:
        start = time.perf_counter()
        try:
            return self._work.facts(name, lambda line: None), time.perf_counter() - start
        except Exception as error:
            return fail(error)

    def do(self, cell: Cell, parcels: Sequence[Any]) -> Done | Failure:
        import ray

        try:
            for files in ray.get(list(parcels)):
                self._work.receive(files)
            return self._work.do(cell)
        except Exception as error:
            return fail(error)

    def close(self) -> None:
        self._folder.cleanup()
