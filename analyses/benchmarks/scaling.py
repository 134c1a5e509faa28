"""What many workers give: a timed work on many actors of Ray, and a real study done by Ray and by forked processes.

Usage::

    python -m analyses.benchmarks.scaling                  # 1,000 timed cells on 8 actors, beside 8 forked processes
    python -m analyses.benchmarks.scaling --study --seeds 1   # the six-task study of the embedded model, on 2 workers

Timed cells sleep instead of computing, so that actors outnumber cores; everything else is what a study does: half of
the cells read, the other half need all that was read of their seed, results are stored by this process, to the disk.
The speed-up is the time that was slept over the time that passed, from the first cell to the last one stored, once all
workers have started. What this process costs is its own processor time, with Ray's threads in it.

Of the real study the files are compared byte by byte, and the pages of the report but for time and folder; times are
of one run each and hold the start of Ray and of its actors. Processor time is that of all processes, read once a cell.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import xmi
from xmi.report import render
from xmi.storage import write_file
from xmi.study.executors.executor import Done, Executor, Say
from xmi.study.executors.fork import Fork
from xmi.study.executors.ray import Ray
from xmi.study.grid import Cell
from xmi.study.plan import Running

SPEEDUP, SHARE = 7.2, 0.05
"""The targets on 8 actors: how much faster, and the part of a core that this process takes per actor at most."""


@dataclass(frozen=True)
class Timed:
    """A work whose cells sleep.

    Attributes:
        folder: Where results are stored.
        tasks: How many tasks it has.
        seconds: How long a cell takes on average.
        size: Bytes of a result.
    """

    folder: Path
    tasks: int = 50
    seconds: float = 0.3
    size: int = 100_000
    loading: Mapping[str, Any] = field(default_factory=dict)

    def cells(self, count: int, first: int = 0) -> list[Cell]:
        """About so many cells: seed by seed, what is read and what is asked."""
        seeds = range(first, first + max(1, count // (2 * self.tasks)))
        return [Cell(kind, "timed", f"t{i}", s) for s in seeds for kind in ("read", "ask") for i in range(self.tasks)]

    def names(self) -> list[str]:
        """One model."""
        return ["timed"]

    def model(self, name: str, tell: Say) -> Any:
        """There is none."""
        raise NotImplementedError

    def facts(self, name: str, tell: Say) -> dict[str, Any]:
        """It takes no time to load."""
        return {}

    def needs(self, cell: Cell) -> list[Cell]:
        """All that is read of a seed, for what is asked."""
        kinds = ["read"] if cell.kind == "ask" else []
        return [Cell(kind, cell.model, f"t{i}", cell.seed) for kind in kinds for i in range(self.tasks)]

    def length(self, cell: Cell) -> float:
        """How long a cell sleeps: half to one and a half of the average, the same at every call."""
        return self.seconds * (0.5 + hashlib.sha256(cell.key.encode()).digest()[0] / 255)

    def do(self, cell: Cell) -> Done:
        """Reads what it needs, and sleeps."""
        start = time.perf_counter()
        for other in self.needs(cell):
            self._file(other).read_bytes()
        time.sleep(self.length(cell))
        content = str(os.getpid()).encode().ljust(self.size)
        return Done(cell, {f"{cell.key}.bin": content}, time.perf_counter() - start)

    def parcel(self, cell: Cell) -> dict[str, bytes]:
        """Its file."""
        return {self._file(cell).name: self._file(cell).read_bytes()}

    def elsewhere(self, folder: Path, loading: Mapping[str, Any]) -> Timed:
        """The same in another folder."""
        return replace(self, folder=folder, loading=loading)

    def receive(self, files: Mapping[str, bytes]) -> None:
        """Writes files, to the disk."""
        for name, content in files.items():
            write_file(self.folder / name, content)

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.bin"


def workers_of(executor: Executor, work: Timed, cells: Iterable[Cell]) -> set[bytes]:
    """Does cells, stores them, and returns the processes that did them."""
    found = set()
    for done in executor.each(work, list(cells)):  # type: ignore[arg-type]
        work.receive(done.files)
        found.add(next(iter(done.files.values())).strip())
    return found


def timed(on: str, count: int, actors: int, seconds: float) -> str:
    """Measures a timed work, and returns a line of the table."""
    running = Running(on=on, workers=actors)
    with tempfile.TemporaryDirectory() as folder:
        executor: Executor = Ray(running, print) if on == "ray" else Fork(actors)
        work = Timed(Path(folder), seconds=seconds)
        with executor:
            began, warm = time.perf_counter(), 100
            if on == "ray":  # actors start one after another; forked processes are there at once
                small = replace(work, tasks=2 * actors)
                while len(workers_of(executor, small, small.cells(1, first=warm))) < actors:
                    warm += 1
            started = time.perf_counter() - began
            cells = work.cells(count)
            slept = sum(map(work.length, cells))
            wall, cpu = time.perf_counter(), time.process_time()
            workers_of(executor, work, cells)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return (
        f"| {on} | {len(cells)} | {actors} | {slept:.0f} s | {wall:.1f} s | {slept / wall:.2f} | "
        f"{cpu / wall / actors:.2%} | {started:.0f} s |"
    )


def family(pid: int) -> dict[int, float]:
    """Processor seconds of a process and of all below it, by number."""
    parents, seconds, tick = {}, {}, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parts = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(parts[1])
        seconds[int(path.parent.name)] = (int(parts[11]) + int(parts[12])) / tick
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {one: seconds.get(one, 0.0) for one in found}


def study(on: str, out: Path, seeds: int, most: dict[int, float]) -> str:
    """Does the six-task study of the embedded model with two workers, and returns a line of the table."""

    def say(line: str) -> None:
        most.update(family(os.getpid()))

    begin, wall = sum(family(os.getpid()).values()), time.perf_counter()
    results = xmi.run("organism", base="organism-llm", seeds=tuple(range(seeds)), on=on, workers=2, out=out, say=say)
    render(results, out / "report.html")
    wall = time.perf_counter() - wall
    most.update(family(os.getpid()))
    cpu = sum(most.values()) - begin
    most.clear()
    return f"| {on} | {wall:.0f} s | {cpu:.0f} s |"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but study.json, which holds the time; of the report, all but time and folder."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    begun = re.search(rb'"begun": "([^"]+)"', found.pop("study.json"))
    page = found["report.html"]
    for word in (str(folder).encode(), begun[1] if begun else b""):
        page = page.replace(word, b"?")
    return {**found, "report.html": page}


def differ(one: Mapping[str, bytes], two: Mapping[str, bytes]) -> Collection[str]:
    """The files that differ."""
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", action="store_true", help="a real study by Ray and by forked processes")
    parser.add_argument("--seeds", type=int, default=1, help="of the real study")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a timed cell")
    asked = parser.parse_args()
    if not asked.study:
        print("| on | cells | workers | slept | passed | speed-up | this process, of a core per worker | start |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for on in ("ray", "fork"):
            print(timed(on, asked.cells, asked.actors, asked.seconds), flush=True)
        print(f"\nTargets on 8: a speed-up of {SPEEDUP} at least, {SHARE:.0%} at most.")
        return
    with tempfile.TemporaryDirectory() as folder:
        measure = partial(study, seeds=asked.seeds, most={})
        print("| on | passed | processor time |\n| --- | ---: | ---: |")
        for on in ("fork", "ray"):
            print(measure(on, Path(folder) / on / "run"), flush=True)
        one, two = (contents(Path(folder) / on / "run") for on in ("fork", "ray"))
        print(f"\n{len(one)} files, {', '.join(differ(one, two)) or 'byte-equal'}")


if __name__ == "__main__":
    main()
