"""JSON files that prove their own content, and digests of any file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OPEN, _CLOSE, _DIGITS = b'{"digest": "', b'",', 64


def seal(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """A JSON object whose first entry, `digest`, is the SHA-256 of all bytes after it.

    Args:
        content: What to store; at least one entry, none called `digest`.
        indent: As in `json.dumps`.
    """
    rest = json.dumps(content, indent=indent).encode()[1:]
    return _OPEN + hashlib.sha256(rest).hexdigest().encode() + _CLOSE + rest


def unseal(data: bytes) -> dict[str, Any]:
    """The content that `seal` was given.

    Raises:
        ValueError: Not one byte may differ from what `seal` gave.
    """
    head = len(_OPEN) + _DIGITS + len(_CLOSE)
    rest = data[head:]
    if data[:head] != _OPEN + hashlib.sha256(rest).hexdigest().encode() + _CLOSE:
        raise ValueError("its content does not have the digest that it states: it is damaged, or was edited")
    content: dict[str, Any] = json.loads(b"{" + rest)
    return content


def seal_of(path: Path) -> str:
    """The digest that a sealed file states, unchecked; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_OPEN) + _DIGITS)[len(_OPEN) :].decode("ascii", "replace")
    except OSError:
        return ""


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
