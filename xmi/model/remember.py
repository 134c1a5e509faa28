"""Self-checks that were made before, kept per checkpoint and library versions.

A checkpoint's files and the libraries that run it do not change behind their hashes, so a check holds until one does.
Modules that were handed over in memory are checked every time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xmi.errors import StorageError
from xmi.model.anatomy import Anatomy
from xmi.model.check import CheckReport
from xmi.model.load import Checkpoint
from xmi.model.points import Point
from xmi.storage import cache_home, write_file

LIBRARIES = ("torch", "transformers", "nnsight")


def remembered(checkpoint: Checkpoint, check: Callable[[], CheckReport], *, again: bool = False) -> CheckReport:
    """The report of an earlier check of the very same files under the same versions, or a new one.

    Args:
        checkpoint: What is checked.
        check: Makes the check.
        again: Check anew even if there is a report.

    Returns:
        The report.
    """
    if not checkpoint.stored:
        return check()
    path = cache_home() / "checks" / f"{_key(checkpoint)}.json"
    if not again:
        try:
            return _decode(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or written by a process that died: check and write it anew
    report = check()
    with suppress(StorageError):  # a read-only home: the check is made at every load
        write_file(path, json.dumps(asdict(report)))
    return report


def _key(checkpoint: Checkpoint) -> str:
    model = checkpoint.model
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    what = [
        checkpoint.revision,
        type(model).__name__,
        type(checkpoint.processor).__name__,
        str(model.dtype),
        str(config._attn_implementation),
        str(next(model.parameters()).device.type),
        sys.version.split()[0],
        _own_code(),
        *(f"{name}={version(name)}" for name in LIBRARIES),
    ]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _own_code() -> str:
    """A change of the checking code makes older reports worthless."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _point(pick: list[int] | None = None, **rest: Any) -> Point:
    return Point(pick=None if pick is None else tuple(pick), **rest)


def _decode(stored: dict[str, object]) -> CheckReport:
    anatomy: dict = stored.pop("anatomy")  # type: ignore[assignment,type-arg]
    points = {name: _point(**point) for name, point in anatomy.pop("points").items()}
    lists = ("deviations", "conditional")
    fixed = {k: tuple(v) if k in lists else v for k, v in anatomy.items()}
    remarks: tuple[str, ...] = tuple(stored.pop("remarks"))  # type: ignore[arg-type]
    return CheckReport(**stored, remarks=remarks, anatomy=Anatomy(points=points, **fixed))  # type: ignore[arg-type]
