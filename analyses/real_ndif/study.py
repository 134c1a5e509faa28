"""The study on a server and on this machine, and by how much their tables and vectors differ.

Reads NDIF_HOST and NDIF_API_KEY. Usage, as the command of `python -m analyses.real_ndif`::

    python -m analyses.real_ndif.study --task country-capital --task food-color
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

import xmi

ID, EMBEDDED = "xmi/organism", "organism"
TOLERANCE = 1e-5


def differences(one: Path, other: Path) -> pd.Series:
    """Largest difference between two runs, by file.

    Args:
        one: Folder of a run.
        other: Folder of another.

    Returns:
        A number per table and per file of vectors: 0 where nothing differs, infinity where a text does, or where a
        file, a column or a row is in one of the runs only.
    """
    found = {}
    for pattern, read in (("tables/*.csv", _table), ("vectors/*.safetensors", load_file)):
        names = {str(file.relative_to(run)) for run in (one, other) for file in run.glob(pattern)}
        for name in sorted(names):
            both = [run / name for run in (one, other)]
            found[name] = _apart(*map(read, both)) if all(file.is_file() for file in both) else np.inf
    return pd.Series(found, dtype=float)


def _table(file: Path) -> dict[str, np.ndarray]:
    return {str(name): column.to_numpy() for name, column in pd.read_csv(file).items()}


def _apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    if {name: array.shape for name, array in one.items()} != {name: array.shape for name, array in other.items()}:
        return np.inf
    return max((_distance(array, other[name]) for name, array in one.items()), default=0.0)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    if {one.dtype.kind, other.dtype.kind} <= {"i", "f"}:
        apart = np.abs(one.astype(float) - other)[~(np.isnan(one) & np.isnan(other))]
        return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
    return 0.0 if pd.Series(one).equals(pd.Series(other)) else np.inf


def main() -> int:
    """Runs both, prints what differs, and returns 1 if anything differs by more than the tolerance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/real_ndif"), help="folder for the folder of the two runs"
    )
    parser.add_argument("--task", action="append", help="name of a task; repeatable (all)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    asked = parser.parse_args()
    what = {"seeds": range(asked.seeds), "say": print} | ({"tasks": asked.task} if asked.task else {})
    out = asked.out / f"{datetime.now():%Y%m%d-%H%M%S}"  # a finished run would not ask the server again
    remote = xmi.run(ID, remote=os.environ["NDIF_HOST"], out=out / "remote", **what)
    local = xmi.run(EMBEDDED, dtype="float32", out=out / "local", **what)
    found = differences(remote.path, local.path)
    print(f"\n{remote.path} and {local.path}: {len(found)} tables and files of vectors, {(found > 0).sum()} differ")
    print(found[found > 0].to_string() if found.any() else "No difference at all.")
    return int(found.max() > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
