"""Kills a study again and again, at random moments, and compares its files with an undisturbed run's.

Usage: `python -m tests.study.kill --times 30`; with `--on ray` each time an actor is killed first, as often as not. The
tests of the suite do the same a few times.
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
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.command import listen_to_interrupts
from tests.zoo.world import make_world

SCRIPT = """
import sys, xmi
from tests.study.test_study import run
from pathlib import Path
print("begun", flush=True)
run(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, on=sys.argv[3], say=lambda line: print(line, flush=True))
"""


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run but study.json, which holds the time it was begun."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "study.json"
    }


def start(world: Path, out: Path, on: str = "fork") -> subprocess.Popen[str]:
    """A study in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, str(world), str(out), on]
    return subprocess.Popen(
        command, env=environment, preexec_fn=listen_to_interrupts, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip


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


def kill(world: Path, out: Path, times: int, seed: int = 0, longest: float = 3.0, on: str = "fork") -> Counter[str]:
    """Starts the study, kills it after a random while, and so on; returns how many kills hit it, or an actor."""
    rng, hit = random.Random(seed), Counter[str]()
    for _ in range(times):
        with start(world, out, on) as process:
            assert process.stdout is not None
            for line in process.stdout:  # imports alone take seconds, in which nothing can break
                if line.startswith("loading and checking" if on == "ray" else "begun") or "complete" in line:
                    break
            time.sleep(rng.random() * longest)
            if on == "ray" and rng.random() < 0.5 and (found := actors(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    hit["actor"] += 1
                time.sleep(rng.random() * longest)
            hit["study"] += process.poll() is None
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            process.stdout.close()
    return hit


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
        for name in ("whole", "killed"):
            out = Path(folder) / name
            if name == "killed":
                hit = kill(world, out, asked.times, asked.seed, asked.longest, asked.on)
                print(f"{hit['study']} of {asked.times} kills hit the study at work, {hit['actor']} more an actor")
            with start(world, out, asked.on if name == "killed" else "fork") as process:
                process.communicate()
        one, two = files(Path(folder) / "whole"), files(Path(folder) / "killed")
        wrong = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
        print(f"{len(one)} files, {'NOT EQUAL: ' + ', '.join(wrong) if wrong else 'byte-equal'}")
        remains = left()
        print(f"left behind: {', '.join(remains) or 'nothing'}")
        sys.exit(one != two or bool(remains))


if __name__ == "__main__":
    main()
