"""A Hugging Face Hub on loopback with one repository: a folder.

`ndif` and nnsight name a model by its id on the Hub and ask the Hub for it, for its size and for its files. Where there
is no network, this answers them (HF_ENDPOINT); neither side has to be told that the model is a folder here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from safetensors import safe_open


class Repository:
    """A folder as a model repository with a single revision.

    Attributes:
        id: `org/name`.
        folder: The files; folders within it are left out.
    """

    def __init__(self, id: str, folder: Path) -> None:
        """Takes the id and the folder."""
        self.id = id
        self.folder = folder

    @cached_property
    def files(self) -> dict[str, Path]:
        """Files by name."""
        return {path.name: path for path in sorted(self.folder.iterdir()) if path.is_file()}

    @cached_property
    def etags(self) -> dict[str, str]:
        """sha256 of every file."""
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self.files.items()}

    @cached_property
    def revision(self) -> str:
        """The commit: 40 hexadecimal digits that change with any file."""
        return hashlib.sha256(json.dumps(self.etags).encode()).hexdigest()[:40]

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Number of parameters by type in the safetensors files, by which `ndif` reckons the size."""
        found: Counter[str] = Counter()
        for name, path in self.files.items():
            if name.endswith(".safetensors"):
                with safe_open(path, "np") as tensors:
                    for key in tensors.keys():  # noqa: SIM118
                        tensor = tensors.get_slice(key)
                        found[tensor.get_dtype()] += prod(tensor.get_shape())
        return dict(found)

    def about(self) -> dict[str, Any]:
        """What the Hub's API says of a model."""
        return {
            "id": self.id,
            "sha": self.revision,
            "siblings": [{"rfilename": name} for name in self.files],
            "safetensors": {"parameters": self.parameters, "total": sum(self.parameters.values())},
        }

    def tree(self) -> list[dict[str, Any]]:
        """What the Hub's API lists of a revision."""
        return [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": self.etags[name]}
            for name, path in self.files.items()
        ]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repository: Repository

    def do_GET(self) -> None:
        repository = self.repository
        path = unquote(urlsplit(self.path).path)
        about = f"/api/models/{repository.id}"
        file = self._file(path)
        if path == about or self._rest(path, f"{about}/revision/") == "":
            self._send(json.dumps(repository.about()).encode())
        elif self._rest(path, f"{about}/tree/") == "":
            self._send(json.dumps(repository.tree()).encode())
        elif file is not None:
            self._send(repository.files[file].read_bytes(), ETag=f'"{repository.etags[file]}"')
        elif path.startswith((f"{about}/", f"/{repository.id}/")):
            self._send(b"", HTTPStatus.NOT_FOUND, **{"X-Error-Code": "EntryNotFound"})
        else:
            self._send(b"", HTTPStatus.NOT_FOUND, **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _rest(self, path: str, prefix: str) -> str | None:
        """What follows a prefix and the revision; None for another path or revision."""
        revision, _, rest = path.removeprefix(prefix).partition("/")
        return rest if path.startswith(prefix) and revision in ("main", self.repository.revision) else None

    def _file(self, path: str) -> str | None:
        name = self._rest(path, f"/{self.repository.id}/resolve/")
        return name if name in self.repository.files else None

    def _send(self, body: bytes, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": self.repository.revision, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(repository: Repository, port: int = 0) -> Iterator[str]:
    """Serves a repository on loopback, in a thread, and yields the address; port 0 takes a free one."""
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Answers", (_Answers,), {"repository": repository}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
