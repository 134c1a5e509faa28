"""Cells in several processes at once, on a CPU: forked, so that all share the models that were loaded."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from xmi.errors import RunError
from xmi.study.executors.executor import Done, Executor, Failure, Say, Work, fail
from xmi.study.executors.schedule import drive
from xmi.study.executors.serial import Serial
from xmi.study.grid import Cell
from xmi.study.plan import Running

SMALL = 10**8
"""Parameters up to which a process per core is faster than one process with all cores: a larger model's products keep
every core busy by themselves."""

MOST = 4
"""Processes at most, unless more are asked for: each holds the activations of a batch."""


def count_workers(running: Running, models: Collection[torch.nn.Module]) -> int:
    """How many processes do a study's cells.

    Args:
        running: What the user asked for.
        models: All that are loaded.

    Returns:
        As asked, or as many as torch may use threads (at most 4) for small models on a CPU under Linux; otherwise 1.

    Raises:
        RunError: Several were asked for where processes cannot share a model.
    """
    if running.workers == 1:
        return 1
    parameters = [p for model in models for p in model.parameters()]
    where = sorted({p.device.type for p in parameters} - {"cpu"})
    able = sys.platform == "linux" and not where
    forced = running.workers is not None or running.on == "fork"
    if forced and not able:
        asked = "on=fork" if running.workers is None else f"workers={running.workers}"
        found = (
            f"is on {', '.join(where)}" if where else f"would have to be forked, which {sys.platform} does not support"
        )
        advice = "Use 1, or --on ray, which loads it once per worker."
        raise RunError(f"{asked}: processes share a model on the CPU under Linux; this one {found}. {advice}")
    if running.workers is not None:
        return running.workers
    small = sum(p.numel() for p in parameters) <= SMALL
    return min(MOST, torch.get_num_threads()) if able and (small or forced) else 1


@dataclass(frozen=True)
class Fork(Executor):
    """Does cells in processes that share the models of this one.

    Attributes:
        count: How many there are at most.
    """

    count: int

    @classmethod
    def offer(cls, running: Running, work: Work, tell: Say) -> Fork | None:
        """Takes a study that several processes do."""
        if running.on == "serial":
            return None
        count = count_workers(running, [work.model(name, tell).model for name in work.names()])
        return cls(count) if count > 1 else None

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[Done]:
        """As `Executor.each`."""
        count = min(self.count, len(cells))
        if count < 2:
            yield from Serial().each(work, cells)
            return
        crew = _Crew(work)
        try:
            yield from drive(work, cells, crew, count)
        finally:
            crew.end()


class _Crew:
    """Processes; the pipe to one is the handle of what it is at."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def hire(self, worker: int) -> Connection:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, here, self._work.do), daemon=True)
        with warnings.catch_warnings():  # that threads do not survive a fork is known: a worker has one
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        there.close()
        self._processes.append(process)
        self._pipes.append(here)
        return here

    def give(self, worker: int, cell: Cell) -> Connection:
        self._pipes[worker].send(cell)
        return self._pipes[worker]

    def wait(self, handles: Sequence[Connection]) -> list[Connection]:
        return wait(handles)  # type: ignore[return-value]

    def take(self, handle: Connection, worker: int, cell: Cell | None) -> Done | None:
        what = f"process at work on {cell.key}" if cell else "process that was starting"
        try:
            answer: Done | Failure | None = handle.recv()
        except (EOFError, ConnectionError):
            self._processes[worker].join()
            raise RunError(
                f"The {what} ended with exit code {self._processes[worker].exitcode}; -9 means that the "
                "system killed it, as it does when memory runs out. Finished cells are kept: run again with workers=1."
            ) from None
        if isinstance(answer, Failure):
            raise answer.raised(what)
        return answer

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _serve(pipe: Connection, other: Connection, do: Callable[[Cell], Done]) -> None:
    """What a process does: cells that it is given, with one thread, until it is killed or the parent is gone."""
    other.close()
    gc.freeze()  # what was there before the fork stays: looking for garbage in it would copy it, page by page
    # Ctrl-C, and what a cluster sends before it ends a job, reach the whole group; the parent ends the workers.
    for sent in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(sent, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    # Libraries that divide work among threads would wait for threads that the fork left behind.
    with threadpool_limits(1), suppress(EOFError):
        pipe.send(None)
        while True:
            cell = pipe.recv()
            try:
                pipe.send(do(cell))
            except BaseException as error:
                pipe.send(fail(error))


def _follow_parent() -> None:
    """Ends this process when its parent does: killed, it cannot end its workers, and they must not write on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
