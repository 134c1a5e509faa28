"""Shapes in annotations, checked at every call while tests run.

jaxtyping's import hook decorates the functions and dataclasses of every module of xmi that writes shapes; axes of one
name must have one length within a call. Left out is what hosts get as source text: `xmi.kernels` and `xmi.remote`.
Only arrays are looked at: other arguments are the business of `xmi.arguments`, which knows what may stand for what.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import isclass
from pathlib import Path
from typing import Any

import jaxtyping
from beartype import beartype
from greenlet import getcurrent
from jaxtyping import _storage, config, install_import_hook

ROOT = Path(__file__).parents[1]
AS_SOURCE = ("kernels", "remote")
KINDS = ("Float[", "Int[", "Bool[", "Num[", "UInt8[", "Shaped[")


def modules() -> list[str]:
    """The modules that write shapes."""
    rooms = [path for path in (ROOT / "xmi").iterdir() if path.stem not in AS_SOURCE]
    files = [file for room in rooms for file in ([room] if room.suffix == ".py" else room.rglob("*.py"))]
    writing = [file for file in files if "from jaxtyping import" in file.read_text(encoding="utf-8")]
    return sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in writing)


def arrays_only(function: Any) -> Any:
    """The checker that jaxtyping applies: beartype, on the annotations that hold an array."""
    function.__annotations__ = {name: note for name, note in function.__annotations__.items() if is_shape(note)}
    return beartype(function)


def is_shape(note: Any) -> bool:
    """Whether an annotation holds an array."""
    return any(kind in str(note) for kind in KINDS)


def where_written(decorate: Any, what: Any = None, **options: Any) -> Any:
    """jaxtyping's decorator, for what writes a shape: at other calls it binds arguments in vain."""
    if what is None:
        return partial(where_written, decorate, **options)
    notes = getattr(what.__init__ if isclass(what) else what, "__annotations__", {})
    return decorate(what, **options) if any(map(is_shape, notes.values())) else what


class PerGreenlet:
    """What jaxtyping keeps of the calls under way, which it takes to end in the order that they began in a thread.

    Operations on a host take turns, each in a greenlet of its own.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return getcurrent().__dict__[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        getcurrent().__dict__[name] = value


def check_shapes() -> None:
    """Checks from now on; to be called before anything imports xmi."""
    _storage._shape_storage = PerGreenlet()
    jaxtyping.jaxtyped = partial(where_written, jaxtyping.jaxtyped)
    install_import_hook(modules(), "tests.shapes.arrays_only")
    from xmi.arguments.callers import LIBRARIES

    LIBRARIES.add("jaxtyping._decorator")  # its frames are not the user's


@contextmanager
def unchecked() -> Iterator[None]:
    """No checks meanwhile: what users meet, who have none."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
