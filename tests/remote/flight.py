"""How long a study takes on a host whose jobs wait before they run, with one job under way and with several.

Usage: `python -m tests.remote.flight --latency 1 --times 3` runs both by turns, and prints the wall time of each, the
jobs that ran, and whether the run folders are equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.remote.kill import found
from tests.remote.loopback import EMBEDDED, KEY, Loopback

PLAN: dict[str, Any] = {
    "tasks": ["country-capital", "country-currency"], "sources": ("text ICL", "instruction"),
    "targets": ("text", "image"), "controls": (), "experiments": (), "shots": 2, "prompts": 4, "seeds": (0, 1),
}  # fmt: skip


def run(server: Loopback, folder: Path, in_flight: int) -> tuple[float, int, int]:
    """A study.

    Returns:
        Seconds, requests, and how often any job ran more than once.
    """
    import xmi

    before, begun = server.stats()["requests"], time.perf_counter()
    xmi.run("organism", out=folder, remote=server.url, in_flight=in_flight, **PLAN)
    seconds, jobs = time.perf_counter() - begun, server.stats()["jobs"][before:]
    return seconds, len(jobs), sum(job["runs"] - 1 for job in jobs)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", type=float, default=1.0, help="seconds that each job waits")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Loopback({"xmi/organism": EMBEDDED["xmi/organism"]}) as server:
        os.environ.update(NDIF_API_KEY=KEY, XMI_CACHE=f"{name}/cache")
        run(server, Path(name) / "warm", 1)
        server.faults(latency=asked.latency)
        rows: dict[int, list[tuple[float, int, int]]] = {1: [], asked.in_flight: []}
        for turn in range(asked.times):
            for count, several in rows.items():
                several.append(run(server, Path(name) / f"{turn}.{count}", count))
        folders = [found(path) for path in Path(name).iterdir() if (path / "jobs").is_dir()]
    for count, several in rows.items():
        seconds = statistics.median(row[0] for row in several)
        print(
            f"{count} in flight: {seconds:.1f} s, {several[0][1]} requests, {sum(row[2] for row in several)} run again"
        )
    ratios = [one[0] / other[0] for one, other in zip(*rows.values(), strict=True)]
    print(f"{statistics.median(ratios):.2f} times as fast (median of {asked.times} pairs)")
    print(f"the studies' files are {'byte-equal' if all(one == folders[0] for one in folders) else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
