"""A small NDIF on loopback: real weights, nnsight's own protocol, and faults on request.

Usage: `python tests/remote/server.py --model org/name=FOLDER [--port 0] [--api-key KEY] [--state DIR] ...`

It runs in a process of its own that cannot import what is being tested (`--hide`), prints `READY http://127.0.0.1:PORT`
once its models are loaded, and then answers as nnsight 0.8.1's client expects of the real server. What it should do
wrong is told to it under `/_test/faults` (see `serving/faults.py`), and what it has seen is read from `/_test/stats`.
"""

from __future__ import annotations

import argparse
import importlib.abc
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


class Hide(importlib.abc.MetaPathFinder):
    """Makes packages impossible to import, as those of a user are on a server."""

    def __init__(self, packages: Sequence[str]):
        self.packages = set(packages)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--model", action="append", default=[], metavar="ID=FOLDER", help="a model to serve; repeatable"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--api-key", help="the key to ask for: 401 without one, 403 with another")
    parser.add_argument("--min-nnsight", metavar="VERSION", help="400 for an older client")
    parser.add_argument("--inline-limit", type=int, default=8 << 20, metavar="BYTES", help="larger results go by URL")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where jobs and results outlive the process")
    parser.add_argument("--hide", action="append", default=[], metavar="PACKAGE", help="cannot be imported; repeatable")
    parser.add_argument("--follow-stdin", action="store_true", help="end when the standard input does")
    return parser.parse_args()


def end_with_stdin() -> None:
    """The pipe closes when the parent ends, however it does: no server is left behind."""
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> None:
    asked = arguments()
    sys.meta_path.insert(0, Hide(asked.hide))
    if asked.follow_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()

    from serving.faults import Switchboard
    from serving.ledger import Ledger
    from serving.models import Models
    from serving.routes import Server
    from serving.worker import Worker

    sys.path.remove(str(Path(__file__).parent))  # the tests beside this file are none of the server's packages
    models = Models(dict(entry.split("=", 1) for entry in asked.model), asked.dtype)
    ledger, faults = Ledger(asked.state), Switchboard()
    server = Server(asked.port, ledger, models, faults, asked.api_key, asked.min_nnsight, asked.hide)
    worker = Worker(ledger, models, faults, server.sockets, server.url, asked.inline_limit)
    server.worker = worker
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("READY", server.url, flush=True)
    worker.forever()


if __name__ == "__main__":
    main()
