"""Kills a study again and again, at random moments, and compares its files with an undisturbed run's.

Usage: `python -m tests.study.kill --times 30`. With `--on ray` each time anew: an actor is killed, then the study, and
what is left is run to its end. The tests of the suite do the same a few times.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests import command
from tests.command import Started
from tests.zoo.world import make_world

SCRIPT = """
import sys, xmi
from tests.study.test_study import run
from pathlib import Path
print("begun", flush=True)
run(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, on=sys.argv[3], say=lambda line: print(line, flush=True))
"""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT)
SAID = ("Ray:", "loading", "[")
"""How the lines begin after which an actor or the study is killed: actors start, models are loaded, cells are done."""
MOMENTS = 13
"""Of 16 such lines in all: what comes after the last cells takes a moment only."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run but study.json, which holds the time it was begun."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "study.json"
    }


def start(world: Path, out: Path, on: str = "fork") -> Started:
    """A study in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return command.start(SCRIPT, str(world), str(out), on, stdout=subprocess.PIPE, environment=environment)


def actors(pid: int) -> list[int]:
    """The actors of Ray below a process."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            names[int(path.name)] = (path / "cmdline").read_text()
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return [one for one in sorted(below) if names.get(one, "").startswith("ray::_Actor")]


def left(wait: float = 20.0) -> list[str]:
    """What a local Ray left behind: processes, after a while in which they may end, and folders."""
    end = time.monotonic() + wait
    while True:
        found = [str(path) for path in Path(tempfile.gettempdir()).glob("xmi-ray-*")]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = path.read_text().replace("\0", " ")
                found += [line[:80]] if "/xmi-ray-" in line or line.startswith("ray::") else []
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.2)


def kill(world: Path, out: Path, times: int, seed: int = 0, longest: float = 3.0) -> int:
    """Starts the study, kills it after a random while, and so on; returns how many kills hit it at work."""
    rng, hit = random.Random(seed), 0
    for _ in range(times):
        with start(world, out) as process:
            assert process.stdout is not None
            for line in process.stdout:  # imports alone take seconds, in which nothing can break
                if line.startswith("begun") or "complete" in line:
                    break
            time.sleep(rng.random() * longest)
            hit += process.poll() is None
            process.send_signal(rng.choice(SIGNALS))
            process.stdout.close()
    return hit


def kill_with_actor(world: Path, out: Path, rng: random.Random) -> str:
    """Starts the study by Ray, kills an actor at a random moment and then the study; returns after which lines.

    Moments are counted in lines that the study says, since its actors take longer to start than its cells to be done.

    Raises:
        AssertionError: One of the two was not at work any more.
    """
    first, second = sorted(rng.randrange(MOMENTS) for _ in range(2))
    with start(world, out, "ray") as process:
        assert process.stdout is not None
        after = []
        for number, line in enumerate(line for line in process.stdout if line.startswith(SAID)):
            if number == first:
                found = _awaited(process)
                time.sleep(rng.random() * 0.3)
                os.kill(rng.choice(found), signal.SIGKILL)
                after.append(line.strip())
            if number == second:
                time.sleep(rng.random() * 0.3)
                assert process.poll() is None, f"the study ended before it was killed after {line!r}"
                process.send_signal(rng.choice(SIGNALS))
                after.append(line.strip())
                break
        process.stdout.close()
    assert process.returncode, "the study ended by itself"
    return f"actor after {after[0]!r}, study after {after[1]!r}"


def _awaited(process: Started, wait: float = 120.0) -> list[int]:
    """The actors of a study, as soon as there are any."""
    end = time.monotonic() + wait
    while not (found := actors(process.pid)):
        assert process.poll() is None and time.monotonic() < end, "the study has no actor"
        time.sleep(0.05)
    return found


def end_equal(world: Path, folder: Path, times: int, seed: int = 0) -> list[str]:
    """Kills an actor and the study, runs it to its end, and compares its files with those of an undisturbed run.

    Returns:
        A line for each time.

    Raises:
        AssertionError: Files differ, or something was not at work when it was killed.
    """
    rng, told = random.Random(seed), []
    with start(world, folder / "whole") as process:
        process.communicate()
    whole = files(folder / "whole")
    for number in range(times):
        out, on = folder / f"killed{number}", rng.choice(("ray", "fork"))
        on = on if number < times - 1 else "ray"  # which removes what the killed ones left
        moments = kill_with_actor(world, out, rng)
        had = len(files(out))
        with start(world, out, on) as process:
            process.communicate()
        own = files(out)
        wrong = sorted(name for name in {*whole, *own} if whole.get(name) != own.get(name))
        assert not wrong, f"{moments}, ended by {on}: {', '.join(wrong)}"
        told.append(f"{moments}: {had} of {len(own)} files; ended by {on}, byte-equal")
    return told


def main() -> None:
    """Prints how the killed run compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds from its start to the kill at most")
    parser.add_argument("--on", default="fork", choices=("fork", "ray"), help="where the cells are done")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world", size=(200, 120))
        if asked.on == "ray":
            print("\n".join(end_equal(world, Path(folder), asked.times, asked.seed)))
            print(f"left behind: {', '.join(left()) or 'nothing'}")
            return
        for name in ("whole", "killed"):
            out = Path(folder) / name
            if name == "killed":
                hit = kill(world, out, asked.times, asked.seed, asked.longest)
                print(f"{hit} of {asked.times} kills hit the study at work")
            with start(world, out) as process:
                process.communicate()
        one, two = files(Path(folder) / "whole"), files(Path(folder) / "killed")
        wrong = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
        print(f"{len(one)} files, {'NOT EQUAL: ' + ', '.join(wrong) if wrong else 'byte-equal'}")
        sys.exit(one != two)


if __name__ == "__main__":
    main()
