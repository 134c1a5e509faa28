"""Annotations as types: texts are evaluated where they were written, when a call is first checked."""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

SEQUENCES = (list, tuple, collections.abc.Sequence)
MAPPINGS = (dict, collections.abc.Mapping)
SEVERAL = (collections.abc.Iterable, collections.abc.Collection)
"""Types whose parts are checked: in order, by key, and in any form."""


class ArrayLike:
    """Stands for numpy's `ArrayLike`: numbers or texts in any form."""


class Absent:
    """Stands for a type of a module that was never imported."""


def evaluated(annotation: Any, module: str, owner: type | None) -> Any:
    """An annotation's meaning; what cannot be found out is not checked."""
    if annotation is inspect.Parameter.empty:
        return Any
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(sys.modules[module]), _Names(module, owner))
        except Exception:
            return Any
    return annotation


class _Names(dict[str, Any]):
    """The names that a module imports for its annotations alone, found when they are asked for."""

    def __init__(self, module: str, owner: type | None) -> None:
        super().__init__({"ArrayLike": ArrayLike, **({"Self": owner} if owner else {})})
        self.found = _imported_for_types(module)

    def __missing__(self, name: str) -> Any:
        home, attribute = self.found[name]
        loaded = sys.modules.get(home)
        if loaded is None:  # nothing can be of a type that was never loaded
            return Absent
        return getattr(loaded, attribute) if attribute else loaded


@functools.cache
def _imported_for_types(module: str) -> dict[str, tuple[str, str]]:
    """The imports under `if TYPE_CHECKING:`; module and attribute by name."""
    found: dict[str, tuple[str, str]] = {}
    with suppress(OSError, TypeError):
        for node in ast.parse(inspect.getsource(sys.modules[module])).body:
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                found.update(_imports(node.body))
    return found


def _imports(body: Sequence[ast.stmt]) -> Iterator[tuple[str, tuple[str, str]]]:
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, (node.module, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], (alias.name, "")
