"""Kills a study on a host, and the host, again and again; then looks what came out and what was paid for twice.

Usage: `python -m tests.remote.kill --times 10`. The test of the suite does the same a few times.

A client is killed (-9 or Ctrl-C), or the server is (-9, and it comes back on the same port with what it had on disk).
If that hits the moment at which a request has left and no answer has come, nobody can know whether there is a job: the
study then says so and ends, and is told to send it again (`resubmit`). These cases are counted and shown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import command
from tests.remote.loopback import EMBEDDED, KEY, Loopback
from tests.study.kill import files

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, xmi
print("begun", flush=True)
out, url, resubmit = sys.argv[1:]
xmi.run(
    "organism", out=out, remote=url, resubmit=resubmit == "True", say=lambda line: print(line, flush=True),
    tasks=["country-capital", "country-currency"], sources=("text ICL", "instruction"), targets=("text", "image"),
    controls=(), experiments=(), shots=2, prompts=4, seeds=(0, 1),
)
"""
PAUSE = 0.2
"""Seconds before the server runs a job: a study of a model this small would be done before anything can be killed."""
DOUBT = "--resubmit"
"""What an error says that leaves a decision to the user."""
PATIENCE = 20  # starts after the last kill


@dataclass
class Toll:
    """What happened to a study.

    Attributes:
        starts: How often it was started.
        clients: Kills that hit it at work.
        servers: Kills of the server, while the study was at work.
        missed: Kills that came when it had ended.
        doubts: How often it said that a request may have arrived, and had to be told to send it again.
        finished: How often each job was begun that had ended before one of the server's kills, by id.
    """

    starts: int = 0
    clients: int = 0
    servers: int = 0
    missed: int = 0
    doubts: int = 0
    finished: dict[str, int] = field(default_factory=dict)


class Client:
    """A study in a process of its own."""

    def __init__(self, out: Path, url: str, cache: Path, log: Path, resubmit: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NDIF_API_KEY": KEY, "XMI_CACHE": str(cache)}
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.log = log
        with log.open("w") as stream:
            self.process = command.start(
                SCRIPT, str(out), url, str(resubmit), environment=environment, stdout=stream, stderr=stream
            )

    def begin(self) -> None:
        """Waits until it is at work: imports alone take seconds, in which nothing can break."""
        while self.working and "begun" not in self.said:
            time.sleep(0.02)

    @property
    def working(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text()

    def end(self, how: signal.Signals | None = None) -> int:
        if how is not None:
            self.process.send_signal(how)
        return self.process.wait(timeout=300)


@contextmanager
def served(state: Path) -> Iterator[Loopback]:
    """A server whose jobs outlive it, and which takes a while for each."""
    with Loopback({"xmi/organism": EMBEDDED["xmi/organism"]}, state=state) as server:
        server.faults(delay=PAUSE)
        yield server


def whole(server: Loopback, out: Path, cache: Path, log: Path) -> None:
    """The study that nothing disturbs."""
    client = Client(out, server.url, cache, log, resubmit=False)
    assert client.end() == 0, client.said


def kill(server: Loopback, out: Path, cache: Path, log: Path, *, times: int, seed: int, longest: float) -> Toll:
    """Kills client or server so many times at random moments, and lets the study come to its end.

    Args:
        server: The server.
        out: The run folder.
        cache: The client's cache.
        log: Where the client's output goes.
        times: Number of kills.
        seed: Seed of their moments.
        longest: Seconds from a start to the kill at most.
    """
    rng, toll, client, doubt = random.Random(seed), Toll(), None, False

    def at_work() -> Client:
        """The client that runs, or another one if it has ended."""
        nonlocal client, doubt
        if client is None or not client.working:
            if client is not None:
                toll.doubts += (doubt := client.end() > 0 and DOUBT in client.said)
            client = Client(out, server.url, cache, log, resubmit=doubt)
            toll.starts += 1
            client.begin()
        return client

    for _ in range(times):
        victim = at_work()
        time.sleep(rng.random() * longest)
        if not victim.working:
            toll.missed += 1
        elif rng.random() < 0.5:
            toll.clients += 1
            victim.end(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
        else:
            toll.servers += 1
            jobs = server.stats()["jobs"]
            toll.finished |= {job["id"]: job["runs"] for job in jobs if job["status"] in ("COMPLETED", "ERROR")}
            server.kill()
            time.sleep(rng.random())
            server.start()
            server.faults(delay=PAUSE)
    for _ in range(PATIENCE):
        last = at_work()
        if last.end() == 0:
            return toll
    raise AssertionError(f"The study does not come to its end:\n{last.said}")


def attempts(run: Path) -> list[dict[str, Any]]:
    """Every sending of a job in a run folder."""
    jobs = [json.loads(path.read_text()) for path in sorted((run / "jobs").glob("*.json"))]
    return [attempt for job in jobs for attempt in job["attempts"]]


def found(run: Path) -> dict[str, bytes]:
    """What a study found: all its files but the jobs, and study.json, which holds the time it was begun."""
    return {name: content for name, content in files(run).items() if not name.startswith(("jobs", "."))}


def paid(server: Loopback, undisturbed: Path, killed: Path, toll: Toll) -> dict[str, list[str]]:
    """What was paid for without need, by kind of fault; all lists are empty if nothing was.

    The jobs by which a model is checked when it is loaded stand in no run folder. They are told from the cells' by
    their size: every cell of this study holds several images, a check one.
    """
    jobs = {job["id"]: job for job in server.stats()["jobs"]}
    known = {run: {str(attempt["job_id"]) for attempt in attempts(run)} for run in (undisturbed, killed)}
    least = min(jobs[id]["payload_bytes"] for id in known[undisturbed])
    others = [job for id, job in jobs.items() if id not in known[undisturbed] | known[killed]]
    doubted = [attempt for attempt in attempts(killed) if attempt["state"] == "sent"]
    strangers = [job["id"] for job in others if job["payload_bytes"] >= 0.95 * least]
    return {
        "run again after their end": [id for id, runs in toll.finished.items() if jobs[id]["runs"] != runs],
        "begun more often than the server was started": [
            id for id, job in jobs.items() if job["runs"] > 1 + toll.servers
        ],
        "never fetched": [str(a["job_id"]) for a in attempts(killed) if a["state"] not in ("finished", "sent")],
        "sent twice unasked": strangers if len(strangers) > len(doubted) else [],
        "more doubts than were said": [a["label"] for a in doubted] if len(doubted) > toll.doubts else [],
    }


def main() -> None:
    """Prints how the killed run compares, and what was paid for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=4.0, help="seconds from a start to the kill at most")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, served(Path(name) / "state") as server:
        folder = Path(name)
        one, two, cache, log = (folder / part for part in ("whole", "killed", "cache", "log"))
        whole(server, one, cache, log)
        before = server.stats()["requests"]
        toll = kill(server, two, cache, log, times=asked.times, seed=asked.seed, longest=asked.longest)
        equal, faults, stats = found(one) == found(two), paid(server, one, two, toll), server.stats()
    print(f"{toll.clients} kills of the client and {toll.servers} of the server at work; {toll.missed} came too late")
    print(f"{toll.starts} starts, {toll.doubts} ended in doubt whether a request had arrived: it was sent again")
    print(f"{stats['requests'] - before} requests, {stats['executed'] - before} runs of jobs")
    print(f"the study's files are {'byte-equal' if equal else 'NOT EQUAL'}")
    for fault, jobs in faults.items():
        print(f"jobs {fault}: {', '.join(jobs) or 'none'}")
    sys.exit(not equal or any(faults.values()))


if __name__ == "__main__":
    main()
