"""Where the cells of a study are done: one module each, and an entry here.

To add one, write a class below `xmi.study.executors.executor.Executor` and an entry of `REGISTRY`: a plan's `on`, its
flag, what they say and what they refuse follow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line needs the names for --help, and must not wait for torch
    from xmi.study.executors.executor import Executor


@dataclass(frozen=True)
class Entry:
    """A kind of executor.

    Attributes:
        path: Its module and class, imported when it is asked for.
        names: What `on` may say for it; nothing where it is never asked for by name.
        port: The port of its addresses, `name://host:port` with the first of its names; None if it has none.
    """

    path: str
    names: tuple[str, ...] = ()
    port: int | None = None

    @property
    def executor(self) -> type[Executor]:
        """The class."""
        module, name = self.path.split(":")
        found: type[Executor] = getattr(import_module(module), name)
        return found

    def complete(self, on: str) -> str | None:
        """A value of `on` that means this kind, an address with its port; None for any other value."""
        if on in self.names:
            return on
        if self.port is None or not re.fullmatch(rf"{self.names[0]}://[^/\s:]+(:\d{{1,5}})?", on):
            return None
        return on if on.count(":") == 2 else f"{on}:{self.port}"


REGISTRY = (
    Entry("xmi.study.executors.ray:Ray", ("ray", "auto"), port=10001),
    Entry("xmi.study.executors.host:AtHost"),
    Entry("xmi.study.executors.fork:Fork", ("fork",)),
    Entry("xmi.study.executors.serial:Serial", ("serial",)),
)
"""In the order in which they are asked; the last one takes any study."""

NAMES = tuple(name for entry in reversed(REGISTRY) for name in entry.names)
"""The words that `on` may be."""

ADDRESSES = tuple(f"{entry.names[0]}://host:port" for entry in REGISTRY if entry.port is not None)
"""The addresses that `on` may be, as they are explained."""


def complete(on: str) -> str | None:
    """A value of `on`, an address with its port; None if it means no executor."""
    return next((found for entry in REGISTRY if (found := entry.complete(on)) is not None), None)


def named(on: str | None) -> type[Executor] | None:
    """The kind of executor that `on` means, None if none is named."""
    return next((entry.executor for entry in REGISTRY if on is not None and entry.complete(on) is not None), None)
