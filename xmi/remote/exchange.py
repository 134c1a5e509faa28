"""One request and its answer, bounded in time and size whatever the other side does.

httpx bounds each read, not their sum: a byte a second would hold a caller for ever, in the headers as well as in the
body. Here every read and write of a request ends by one deadline, and a body is counted as it comes, whatever length
was declared. Answers are asked for uncompressed, and read only so: a few bytes cannot become many.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpcore
import httpx

PIECE = 2**14  # bytes per write: each is bounded by the deadline


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        content: The body.
    """

    status: int
    content: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the request was granted."""
        return 200 <= self.status < 300


class TooLarge(Exception):
    """An answer beyond its bound, or in a form that cannot be bounded."""


@dataclass(frozen=True)
class _Bounds:
    until: float
    seconds: float
    clean: Callable[[str], str]


_NOW: ContextVar[_Bounds | None] = ContextVar("xmi_exchange", default=None)


@contextmanager
def within(seconds: float, clean: Callable[[str], str]) -> Iterator[None]:
    """Ends everything that is sent and received inside after some seconds, attempts and pauses together.

    Args:
        seconds: How many.
        clean: What takes the API key out of a text; the HTTP libraries' own log lines go through it.
    """
    token = _NOW.set(_Bounds(time.monotonic() + seconds, seconds, clean))
    try:
        yield
    finally:
        _NOW.reset(token)


def left() -> float:
    """Returns the seconds until the deadline; infinite where there is none."""
    now = _NOW.get()
    return float("inf") if now is None else now.until - time.monotonic()


def _left(timeout: float | None) -> float | None:
    remaining = left()
    if remaining <= 0:
        now = _NOW.get()
        raise httpcore.ReadTimeout(f"no whole answer within {now.seconds if now else 0:g} s")
    return remaining if timeout is None else min(timeout, remaining)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end by the deadline."""

    def __init__(self, real: httpcore.NetworkStream) -> None:
        self._real = real

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._real.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            self._real.write(buffer[start : start + PIECE], _left(timeout))

    def close(self) -> None:
        self._real.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._real.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._real.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Connections that are made by the deadline."""

    def __init__(self, real: httpcore.NetworkBackend) -> None:
        self._real = real

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        return _Stream(self._real.connect_tcp(host, port, _left(timeout), local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._real.sleep(seconds)


def client(timeout: httpx.Timeout) -> httpx.Client:
    """An HTTP client whose requests end by the deadline of `within`.

    Args:
        timeout: What each single read, write and connection may take.
    """
    made = httpx.Client(timeout=timeout, headers={"Accept-Encoding": "identity"}, verify=_authorities())
    for transport in (made._transport, *made._mounts.values()):  # proxies have transports of their own
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool
            pool._network_backend = _Network(pool._network_backend)
    return made


@cache
def _authorities() -> ssl.SSLContext:
    """Whom this process trusts: to read that anew takes longer than most requests."""
    return httpx.create_ssl_context()


def send(client: httpx.Client, request: httpx.Request, auth: httpx.Auth | None, limit: int) -> Answer:
    """Sends a request and reads the answer, neither longer than the deadline nor larger than a limit.

    Args:
        client: What `client` gives.
        request: The request.
        auth: What puts the API key into it.
        limit: Bytes of the body at most.

    Returns:
        The answer; its body may be shorter than was declared only if the connection says that it ended there.

    Raises:
        TooLarge: The body is larger, or compressed.
        httpx.HTTPError: The request did not get through, or the answer did not end in time.
    """
    response = client.send(request, auth=auth, stream=True, follow_redirects=False)
    try:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise TooLarge("comes compressed on the way, although that was not asked for")
        parts, size = list[bytes](), 0
        for part in response.iter_raw():
            size += len(part)
            if size > limit:
                raise TooLarge(f"is larger than {limit / 1e6:.1f} MB, which is more than was asked for")
            parts.append(part)
        return Answer(response.status_code, b"".join(parts))
    finally:
        response.close()


class _Cleaned(logging.Filter):
    """Takes the API key out of what the HTTP libraries log of a host's answers."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (now := _NOW.get()) is not None:
            record.msg, record.args = now.clean(record.getMessage()), ()
        return True


for _name in ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks"))):
    logging.getLogger(_name).addFilter(_Cleaned())
