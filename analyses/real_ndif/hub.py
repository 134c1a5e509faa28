"""A Hugging Face Hub on loopback whose repositories are folders.

`ndif` and nnsight name a model by its id on the Hub and ask the Hub for it, for its size and for its files. Where there
is no network, this answers them (HF_ENDPOINT); neither side has to be told that the model is a folder here.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from safetensors import safe_open

ADDRESS = re.compile(
    r"/(?:api/models/)?(?P<id>[^/]+/[^/]+)(?:/(?P<kind>revision|tree|resolve)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?"
)


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
    repositories: Mapping[str, Repository]

    def do_GET(self) -> None:
        asked = ADDRESS.fullmatch(unquote(urlsplit(self.path).path))
        repository = self.repositories.get(asked["id"]) if asked else None
        if asked is None or repository is None:
            return self._refuse("RepoNotFound")
        if (asked["revision"] or "main") not in ("main", repository.revision):
            return self._refuse("RevisionNotFound")
        headers = {"X-Repo-Commit": repository.revision}
        match asked["kind"], asked["file"]:
            case (None | "revision", None):
                self._send(json.dumps(repository.about()).encode(), headers)
            case ("tree", None):
                self._send(json.dumps(repository.tree()).encode(), headers)
            case ("resolve", name) if name in repository.files:
                self._send(repository.files[name].read_bytes(), headers | {"ETag": f'"{repository.etags[name]}"'})
            case _:
                self._refuse("EntryNotFound", headers)

    do_HEAD = do_GET

    def _refuse(self, why: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(b"", {**(headers or {}), "X-Error-Code": why}, HTTPStatus.NOT_FOUND)

    def _send(self, body: bytes, headers: Mapping[str, str], status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(models: Mapping[str, Path], port: int = 0) -> Iterator[str]:
    """Serves folders by id on loopback, in a thread, and yields the address; port 0 takes a free one."""
    repositories = {id: Repository(id, folder) for id, folder in models.items()}
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Answers", (_Answers,), {"repositories": repositories}))
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
