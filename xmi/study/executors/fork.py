"""Cells in several processes at once, on a CPU: forked, so that all share the models that were loaded."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from xmi.errors import RunError
from xmi.study.executors.executor import Work
from xmi.study.executors.serial import Serial
from xmi.study.grid import Cell

SMALL = 10**8
"""Parameters up to which a process per core is faster than one process with all cores: a larger model's products keep
every core busy by themselves."""

MOST = 4
"""Processes at most, unless more are asked for: each holds the activations of a batch."""


def count_workers(asked: int | None, models: Collection[torch.nn.Module]) -> int:
    """How many processes do a study's cells.

    Args:
        asked: What the user asked for; None decides by the models.
        models: All that are loaded.

    Returns:
        As many as torch may use threads (at most 4) for small models on a CPU under Linux, otherwise 1.

    Raises:
        RunError: Several were asked for where processes cannot share a model.
    """
    if asked == 1:
        return 1
    parameters = [p for model in models for p in model.parameters()]
    where = sorted({p.device.type for p in parameters} - {"cpu"})
    able = sys.platform == "linux" and not where
    if asked is not None and not able:
        found = (
            f"is on {', '.join(where)}" if where else f"would have to be forked, which {sys.platform} does not support"
        )
        raise RunError(f"workers={asked}: processes share a model on the CPU under Linux; this one {found}. Use 1.")
    if asked is None:
        small = sum(p.numel() for p in parameters) <= SMALL
        return min(MOST, torch.get_num_threads()) if able and small else 1
    if asked < 1:
        raise RunError(f"workers={asked}: at least one process must do the work.")
    return asked


def offer(workers: int | None, models: Collection[torch.nn.Module]) -> Fork | None:
    """Takes a study that several processes do."""
    count = count_workers(workers, models)
    return Fork(count) if count > 1 else None


@dataclass(frozen=True)
class Fork:
    """Does cells in processes that share the models of this one.

    Attributes:
        count: How many there are at most.
    """

    count: int

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        """As `Executor.each`."""
        if min(self.count, len(cells)) < 2:
            yield from Serial().each(work, cells)
            return
        todo = list(cells)
        workers = [_Worker.start(work.do) for _ in range(min(self.count, len(cells)))]
        busy: dict[Connection, tuple[_Worker, Cell]] = {}
        try:
            while todo or busy:
                for worker in workers:
                    going = [cell for _, cell in busy.values()]
                    ready = [cell for cell in todo if {*todo, *going}.isdisjoint(work.needs(cell))]
                    if ready and worker.pipe not in busy:
                        cell = min(ready, key=lambda cell: _rank(cell, worker, workers))
                        todo.remove(cell)
                        worker.give(cell)
                        busy[worker.pipe] = worker, cell
                for pipe in wait(list(busy)):
                    worker, cell = busy.pop(pipe)  # type: ignore[call-overload]
                    yield cell, worker.take(cell)
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.join()


def _rank(cell: Cell, worker: _Worker, workers: Sequence[_Worker]) -> int:
    """A process best goes on with the tasks that it knows: what no seed changes is in its memory."""
    about = (cell.model, cell.task)
    return 0 if about in worker.known else 1 if all(about not in w.known for w in workers) else 2


@dataclass
class _Worker:
    """A process, and the tasks it has met."""

    process: Any
    pipe: Connection
    known: set[tuple[str, str | None]] = field(default_factory=set)

    @classmethod
    def start(cls, do: Callable[[Cell], float]) -> _Worker:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, here, do), daemon=True)
        with warnings.catch_warnings():  # that threads do not survive a fork is known: a worker has one
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        there.close()
        return cls(process, here)

    def give(self, cell: Cell) -> None:
        self.known.add((cell.model, cell.task))
        self.pipe.send(cell)

    def take(self, cell: Cell) -> float:
        try:
            seconds, error, trace = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RunError(
                f"The process at work on {cell.key} ended with exit code {self.process.exitcode}; -9 means that the "
                "system killed it, as it does when memory runs out. Finished cells are kept: run again with workers=1."
            ) from None
        if error is not None:
            error.add_note(f"In the process at work on {cell.key}:\n{trace}")
            raise error
        return float(seconds)


def _serve(pipe: Connection, other: Connection, do: Callable[[Cell], float]) -> None:
    """What a process does: cells that it is given, with one thread, until it is killed or the parent is gone."""
    other.close()
    gc.freeze()  # what was there before the fork stays: looking for garbage in it would copy it, page by page
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    # Libraries that divide work among threads would wait for threads that the fork left behind.
    with threadpool_limits(1), suppress(EOFError):
        while True:
            cell = pipe.recv()
            try:
                pipe.send((do(cell), None, ""))
            except BaseException as error:
                _send_error(pipe, error)


def _send_error(pipe: Connection, error: BaseException) -> None:
    trace = traceback.format_exc()
    try:
        pipe.send((0.0, error, trace))
    except Exception:  # an error that cannot be pickled
        pipe.send((0.0, RuntimeError(f"{type(error).__name__}: {error}"), trace))


def _follow_parent() -> None:
    """Ends this process when its parent does: killed, it cannot end its workers, and they must not write on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
