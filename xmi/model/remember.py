"""What xmi keeps between processes to save time: files that may be lost, cut short or altered without harm.

Each holds its key and a checksum beside its content, so what is read is what was written under that key, or nothing.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from xmi.errors import StorageError
from xmi.storage import cache_home, write_file


def recall(kind: str, key: str) -> Any | None:
    """What was kept under a key.

    Args:
        kind: Folder within the cache home.
        key: The key.

    Returns:
        The content; None if there is none, or its file is not what was written: then it has to be made again.
    """
    try:
        stored = json.loads(_path(kind, key).read_text(encoding="utf-8"))
        sound = stored["key"] == key and stored["sha256"] == _checksum(stored["content"])
        return stored["content"] if sound else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError):
        return None


def keep(kind: str, key: str, content: Any) -> None:
    """Keeps something that JSON can hold; where nothing can be written, nothing is kept.

    Args:
        kind: Folder within the cache home.
        key: The key.
        content: What to keep.
    """
    text = json.dumps({"key": key, "content": content, "sha256": _checksum(content)})
    with suppress(StorageError):
        write_file(_path(kind, key), text)


def _path(kind: str, key: str) -> Path:
    return cache_home() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
