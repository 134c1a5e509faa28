"""Runs a command against the real `ndif` server, which this starts on loopback; the page is docs/real_ndif.md.

Usage::

    python -m analyses.real_ndif FOLDER                           # stock nnsight asks the server, and compares
    python -m analyses.real_ndif FOLDER -- xmi run xmi/organism --remote http://127.0.0.1:8001

FOLDER is where the server's environment is made (the first time: minutes and gigabytes) and kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analyses.real_ndif.inside import report
from analyses.real_ndif.installation import CPU_INDEX, install
from analyses.real_ndif.namespace import entering
from analyses.real_ndif.server import ServerError

ROOT = Path(__file__).parents[2]
ORGANISM = ROOT / "xmi" / "data" / "organism" / "vlm"


SMOKE = [sys.executable, "-m", "analyses.real_ndif.smoke"]


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `command` is what stands behind `--`."""
    ours = list(given[: given.index("--")] if "--" in given else given)
    parser = argparse.ArgumentParser(
        prog="python -m analyses.real_ndif",
        usage="%(prog)s FOLDER [options] [-- COMMAND ...]",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("home", type=Path, metavar="FOLDER", help="where the server's environment is made and kept")
    parser.add_argument("--python", type=Path, metavar="PATH", help="Python 3.12 or 3.13 for the server")
    parser.add_argument("--cuda-torch", action="store_true", help="take the usual build of torch: gigabytes of CUDA")
    parser.add_argument(
        "--torch-index", default=CPU_INDEX, metavar="URL", help="package index with CPU builds of torch"
    )
    parser.add_argument("--model", type=Path, default=ORGANISM, metavar="FOLDER", help="the model to serve")
    parser.add_argument("--id", default="xmi/organism", metavar="ORG/NAME", help="under which id")
    parser.add_argument("--dtype", default="float32", help="how its weights are held")
    parser.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="how long the server may take")
    asked = parser.parse_args(ours)
    asked.command = list(given[len(ours) + 1 :]) or [*SMOKE, asked.id]
    return asked


def start(asked: argparse.Namespace) -> int:
    """Installs, enters the namespaces, and returns the command's exit status.

    Raises:
        ServerError: Something that the server needs is missing.
    """
    if not (asked.model / "config.json").is_file():
        raise ServerError(f"{asked.model} holds no model: there is no config.json in it.")
    enter = entering()  # before anything is installed
    home = asked.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    install(home, asked.python, cuda=asked.cuda_torch, index=asked.torch_index)

    theirs, ours = os.pipe()
    with tempfile.TemporaryDirectory(prefix="ndif-", dir="/tmp") as scratch:  # a short path: Ray's sockets lie in it
        inside = [sys.executable, "-m", "analyses.real_ndif.inside", str(theirs), str(home), scratch, asked.id]
        inside += [str(asked.model.resolve()), asked.dtype, str(asked.wait), *asked.command]
        process = subprocess.Popen([*enter, *inside], pass_fds=[theirs])
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the process inside too, which ends in order
        signal.signal(signal.SIGTERM, lambda *_: os.close(ours))
        return process.wait()


if __name__ == "__main__":
    sys.exit(report(lambda: start(arguments(sys.argv[1:]))))
