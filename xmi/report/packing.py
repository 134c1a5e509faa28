"""What travels inside a page, compressed: plotly, figures, and the answers of a study.

A page must open from a folder or a mail, alone and without a network, so it cannot refer to a file next to it. Plotly
is 4.8 MB of text, of which 1.9 MB are left once it is packed; the page unpacks it with the browser's own gzip.
"""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Any

from pydantic_core import to_json

LEVEL = 6
"""How hard gzip tries; 9 takes five times as long for figures that are two hundredths smaller."""


def packed(content: bytes) -> str:
    """Returns base64 of gzipped content, the same for the same content."""
    return base64.b64encode(gzip.compress(content, LEVEL, mtime=0)).decode()


def packed_json(value: Any) -> str:
    """Returns base64 of gzipped JSON."""
    return packed(to_json(value))


def packed_size(count: int) -> int:
    """Returns how many characters of base64 so many bytes take."""
    return -(-count // 3) * 4


class Stream:
    """Content that is compressed as it comes, so that it is never held whole."""

    def __init__(self) -> None:
        """Begins empty."""
        self._gzip = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._parts: list[bytes] = []
        self._count = 0

    def write(self, content: bytes) -> None:
        """Adds content."""
        self._keep(self._gzip.compress(content))

    def close(self) -> None:
        """Ends it; nothing can be added any more."""
        self._keep(self._gzip.flush())

    def _keep(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._count += len(part)

    @property
    def size(self) -> int:
        """Characters of base64 that it takes so far; what is still in the compressor does not count."""
        return packed_size(self._count)

    def packed(self) -> str:
        """Returns base64 of what was written, once it is closed."""
        return base64.b64encode(b"".join(self._parts)).decode()
