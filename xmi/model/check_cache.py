"""Self-checks that were made before, kept per checkpoint and library versions.

A checkpoint's files and the libraries that run it do not change behind their hashes, so a check holds until one does.
Modules that were handed over in memory are checked every time.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from xmi.model.check import CheckReport
from xmi.model.load import Checkpoint
from xmi.model.remember import keep, recall

LIBRARIES = ("torch", "transformers", "nnsight", "peft")


def remembered(checkpoint: Checkpoint, check: Callable[[], CheckReport], *, again: bool = False) -> CheckReport:
    """The report of an earlier check of the very same files under the same versions, or a new one.

    Args:
        checkpoint: What is checked.
        check: Makes the check.
        again: Check again even if there is a report.

    Returns:
        The report.
    """
    if not checkpoint.stored:
        return check()
    key = _key(checkpoint)
    if not again and (report := _decode(recall("checks", key), checkpoint.model)) is not None:
        return report
    report = check()
    keep("checks", key, _reports().dump_python(report, mode="json"))
    return report


def _decode(stored: Any, model: torch.nn.Module) -> CheckReport | None:
    """A kept report, if it is one, and of this model."""
    try:
        report = _reports().validate_python(stored)
        for point in report.anatomy.points.values():
            model.get_submodule(point.module)
    except (ValidationError, AttributeError):
        return None
    return report


@cache
def _reports() -> TypeAdapter[CheckReport]:
    return TypeAdapter(CheckReport)


def _key(checkpoint: Checkpoint) -> str:
    """All that a report depends on: what was loaded, how, and by which code."""
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
        *(f"{name}={_version(name)}" for name in LIBRARIES),
    ]
    return "\n".join(what)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@lru_cache(maxsize=1)
def _own_code() -> str:
    """A change of the checking code makes older reports worthless."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
