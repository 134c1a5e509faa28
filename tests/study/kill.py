"""Kills a study again and again, at random moments, and compares its files with an undisturbed run's.

Usage: `python -m tests.study.kill --times 30`. The test of the suite does the same a few times.
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


def kill(world: Path, out: Path, times: int, seed: int = 0, longest: float = 3.0) -> int:
    """Starts the study, kills it after a random while, and so on; returns how many of the kills hit it at work."""
    rng, hit = random.Random(seed), 0
    for _ in range(times):
        with start(world, out) as process:
            assert process.stdout is not None
            for _line in process.stdout:  # imports alone take seconds, in which nothing can break
                break
            time.sleep(rng.random() * longest)
            hit += process.poll() is None
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            process.stdout.close()
    return hit


def main() -> None:
    """Prints how the killed run compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=1.0, help="seconds from its start to the kill at most")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world", size=(200, 120))
        for name in ("whole", "killed"):
            out = Path(folder) / name
            if name == "killed":
                hit = kill(world, out, asked.times, asked.seed, asked.longest)
                print(f"{hit} of {asked.times} kills hit the study at work")
            with start(world, out) as process:
                process.communicate()
        one, two = files(Path(folder) / "whole"), files(Path(folder) / "killed")
        print(f"{len(one)} files, {'byte-equal' if one == two else 'NOT EQUAL'}")
        sys.exit(one != two)


if __name__ == "__main__":
    main()
