"""Runs a command against the real `ndif` server, which this starts on loopback; the page is docs/real_ndif.md.

Usage::

    python -m analyses.real_ndif FOLDER                # the study there and here, compared: study.py
    python -m analyses.real_ndif FOLDER -- python -m analyses.real_ndif.smoke
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

from pydantic import TypeAdapter

from analyses.real_ndif.inside import Asked, report
from analyses.real_ndif.installation import CPU_INDEX, install
from analyses.real_ndif.namespace import entering
from analyses.real_ndif.server import model_key

ORGANISM = Path(__file__).parents[2] / "xmi" / "data" / "organism"
MODELS = {"xmi/organism": ORGANISM / "vlm"}
STUDY = [sys.executable, "-m", "analyses.real_ndif.study", "--out"]


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
    parser.add_argument(
        "--model", type=_named, action="append", metavar="ORG/NAME=FOLDER", help="a model to serve; repeatable"
    )
    parser.add_argument("--dtype", default="float32", help="how the weights are held")
    parser.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="how long the server may take")
    asked = parser.parse_args(ours)
    asked.models = dict(asked.model or MODELS)
    asked.command = list(given[len(ours) + 1 :])
    if not asked.command and asked.model:
        parser.error("say behind `--` what is to be run with these models")
    asked.command = asked.command or [*STUDY, str(asked.home / "runs")]
    return asked


def _named(text: str) -> tuple[str, Path]:
    id, equals, folder = text.partition("=")
    if not equals or id.count("/") != 1:
        raise argparse.ArgumentTypeError(f"expected ORG/NAME=FOLDER, found {text!r}")
    return id, Path(folder).resolve()


def start(given: argparse.Namespace) -> int:
    """Installs, enters the namespaces, and returns the command's exit status.

    Raises:
        ServerError: Something that the server needs is missing.
    """
    for id, folder in given.models.items():
        model_key(id, folder)  # whether it can be served is asked before anything is installed
    enter = entering()
    home = given.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    install(home, given.python, cuda=given.cuda_torch, index=given.torch_index)

    asked = TypeAdapter(Asked).dump_json(Asked(home, given.models, given.dtype, given.wait, given.command)).decode()
    theirs, ours = os.pipe()
    with tempfile.TemporaryDirectory(prefix="ndif-", dir="/tmp") as scratch:  # a short path: Ray's sockets lie in it
        inside = [sys.executable, "-m", "analyses.real_ndif.inside", str(theirs), scratch, asked]
        process = subprocess.Popen([*enter, *inside], pass_fds=[theirs])
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the process inside too, which ends in order
        signal.signal(signal.SIGTERM, lambda *_: os.close(ours))
        return process.wait()


if __name__ == "__main__":
    sys.exit(report(lambda: start(arguments(sys.argv[1:]))))
