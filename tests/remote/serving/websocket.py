"""The server's side of a WebSocket (RFC 6455), as much of it as statuses to a client need."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import threading
import uuid
from http.server import BaseHTTPRequestHandler

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE = 0x1, 0x2, 0x8


def frame(content: bytes, kind: int) -> bytes:
    """One whole, unmasked frame."""
    size = len(content)
    if size < 126:
        head = struct.pack(">BB", 0x80 | kind, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | kind, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | kind, 127, size)
    return head + content


class Sockets:
    """The clients that listen, by session id."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[BaseHTTPRequestHandler, threading.Lock]] = {}

    def serve(self, client: BaseHTTPRequestHandler) -> None:
        """Greets a client with its session id and returns when it leaves."""
        session, lock = uuid.uuid4().hex, threading.Lock()
        accept = base64.b64encode(hashlib.sha1((client.headers["Sec-WebSocket-Key"] + _MAGIC).encode()).digest())
        client.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept.decode()),
        ):
            client.send_header(name, value)
        client.end_headers()
        self._open[session] = client, lock
        self.send(session, json.dumps({"session_id": session}))
        with contextlib.suppress(OSError):
            # All that a client of nnsight ever sends is a close frame, and it waits seconds for the answer.
            while (head := client.rfile.read(2)) and head[0] & 0x0F != _CLOSE:
                client.rfile.read(4 + (head[1] & 0x7F))
            with lock:
                client.connection.sendall(frame(struct.pack(">H", 1000), _CLOSE))
        self._open.pop(session, None)
        client.close_connection = True

    def send(self, session: str, content: str | bytes) -> None:
        """Sends a frame, or does nothing if the client has left: nobody keeps what it misses."""
        if session not in self._open:
            return
        client, lock = self._open[session]
        packed = frame(content.encode(), _TEXT) if isinstance(content, str) else frame(content, _BINARY)
        try:
            with lock:
                client.connection.sendall(packed)
        except OSError:
            self._open.pop(session, None)
