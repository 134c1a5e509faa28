"""How a plain forward runs: with attention that gives patterns, with or without gradients."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from xmi.errors import HookError
from xmi.model.attention import attention
from xmi.model.guard import open_blocks

if TYPE_CHECKING:
    from xmi.model.engine import Engine


def warn_of_eager(engine: Engine) -> None:
    """Says that attention is switched, if it is, where the user called xmi."""
    if engine.attention != "eager":
        level, frame = 1, inspect.currentframe()
        while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("xmi", "contextlib"):
            level, frame = level + 1, frame.f_back
        warnings.warn(
            f"Attention patterns exist only in eager attention: this call runs with it in place of {engine.attention}, "
            "which changes numbers within rounding.",
            stacklevel=level,
        )


@contextmanager
def eager_if(engine: Engine, patterns: bool = False) -> Iterator[None]:
    """Eager attention, if patterns are wanted here or by a block of hooks that is open; the guard must be held."""
    wanted = patterns or any(block.patterns for block in open_blocks(engine.guard))
    if wanted and engine.attention != "eager":
        with attention(engine.model, engine.backbone, "eager"):
            yield
    else:
        yield


@contextmanager
def gradients(wanted: bool) -> Iterator[None]:
    """Runs with or without gradients, whatever the surroundings are.

    Raises:
        HookError: They are wanted where torch records none.
    """
    if wanted and torch.is_inference_mode_enabled():
        raise HookError("grad=True has no effect inside torch.inference_mode(): leave that out.")
    with torch.set_grad_enabled(wanted):
        yield
