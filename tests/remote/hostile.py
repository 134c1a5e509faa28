"""A host that answers whatever a test wants, byte by byte: the other side of every promise about untrusted hosts."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Reply = bytes | Iterable[bytes]
Script = Callable[[str, dict[str, str]], Reply]


class Hostile:
    """Listens on loopback in threads of this process.

    Attributes:
        script: What a request line's path and its headers are answered with: whole HTTP bytes, or pieces of them.
        asked: The paths that were asked for, and the API key that came with each, if any.
    """

    def __init__(self) -> None:
        self.script: Script = lambda path, headers: answer({})
        self.asked: list[tuple[str, str | None]] = []
        self._open = True
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._open = False
        self._socket.close()

    def _serve(self) -> None:
        while self._open:
            with suppress(OSError):
                connection, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection:
            stream = connection.makefile("rb")
            _, path, _ = stream.readline().decode().split(" ")
            headers: dict[str, str] = {}
            while line := stream.readline().strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            stream.read(int(headers.get("content-length", 0)))
            self.asked.append((path, headers.get("ndif-api-key")))
            found = self.script(path, headers)
            for piece in (found,) if isinstance(found, bytes) else found:
                connection.sendall(piece)


def answer(content: Any, *, status: str = "200 OK", headers: Iterable[str] = (), length: int | None = None) -> bytes:
    """A whole HTTP answer; content that is not bytes is sent as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


def slowly(content: bytes, pause: float = 0.02) -> Iterator[bytes]:
    """A byte at a time, for ever."""
    while True:
        for place in range(len(content)):
            yield content[place : place + 1]
            time.sleep(pause)


@contextmanager
def hostile() -> Iterator[Hostile]:
    """A host for the length of a block."""
    made = Hostile()
    try:
        yield made
    finally:
        made.close()
