"""What the default study costs on a host: requests and bytes per kind of cell, counted by the loopback server.

Usage: `python -m tests.remote.cost [--seeds 3]` prints the table of docs/remote.md for the embedded model.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from tests.remote.loopback import KEY, Loopback

KINDS = {
    "check": "checks when a model is loaded (both models)",
    "proof of the sweep": "proof that sweeps may be packed, per kind of queries",
    "read": "read: vectors of one task, one seed",
    "base": "base: vectors of the base LLM, all tasks, one seed",
    "ask": "ask: prompts, sweeps and phases of one task, one seed",
    "ensembling": "ensembling",
    "overriding": "overriding: all pairs of tasks",
}


def measure(seeds: int) -> tuple[pd.DataFrame, float]:
    """Runs the study against a server of its own.

    Args:
        seeds: Number of seeds.

    Returns:
        One row per kind of cell: number of cells, requests, bytes up and down, and the largest request's bytes; and the
        seconds it took.
    """
    import xmi

    with tempfile.TemporaryDirectory() as folder, Loopback() as server:
        os.environ.update(NDIF_API_KEY=KEY, XMI_CACHE=f"{folder}/cache")
        begun = time.perf_counter()
        results = xmi.run(
            "organism", base="organism-llm", seeds=tuple(range(seeds)), remote=server.url, out=Path(folder) / "run",
            say=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        seconds, jobs = time.perf_counter() - begun, server.stats()["jobs"]
        traffic = results.traffic()
    traffic["kind"] = [cell.rpartition(".")[2] for cell in traffic["cell"]]
    found = traffic.groupby("kind")[["requests", "up", "down"]].sum()
    found.insert(0, "cells", traffic.groupby("kind").size())
    found.loc[found.index.intersection(["proof of the sweep"]), "cells"] = 0
    # What was sent while loading is kept elsewhere; the server has seen all.
    seen = pd.Series({"requests": len(jobs), **{to: sum(job[of] for job in jobs) for to, of in _BYTES.items()}})
    found.loc["check"] = {"cells": 0, **(seen - found.sum()).reindex(["requests", "up", "down"])}
    return found.reindex([kind for kind in KINDS if kind in found.index]).astype(int), seconds


_BYTES = {"up": "payload_bytes", "down": "result_bytes"}


def lines(found: pd.DataFrame) -> list[str]:
    """The table as Markdown, with a total."""
    rows: list[tuple[Any, ...]] = [
        (KINDS[str(kind)], *row) for kind, row in zip(found.index, found.values, strict=True)
    ]
    rows.append(("**all**", *found.sum()))
    return [
        "| what | cells | requests | up, kB | down, kB | up per request, kB | down per request, kB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {cells or '-'} | {requests} | {up / 1e3:.0f} | {down / 1e3:.0f} | {up / 1e3 / requests:.1f} | "
            f"{down / 1e3 / requests:.1f} |"
            for name, cells, requests, up, down in rows
        ),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    found, seconds = measure(parser.parse_args().seeds)
    print("\n".join(lines(found)))
    print(f"\n{seconds:.0f} s with the server on the same machine.")


if __name__ == "__main__":
    main()
