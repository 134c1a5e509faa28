"""What every result has in common: a table, a figure, and a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic_core import from_json

from xmi.arguments import forwarding
from xmi.shown import Shown
from xmi.storage import reading, write_file

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Result(Shown):
    """Base of the frozen result dataclasses.

    A result holds numpy arrays, strings and numbers only, so that it can be saved as JSON, read again elsewhere,
    and drawn without a model.
    """

    def to_frame(self) -> pd.DataFrame:
        """Returns the result as a tidy table, one row per measured value."""
        raise NotImplementedError(f"{type(self).__name__} has no table.")

    @forwarding
    def figure(self, **options: Any) -> go.Figure:
        """Returns the result's plotly figure; options are those of the function in `xmi.plot`."""
        # The one import that points up the house: a result draws itself for the reader's convenience.
        from xmi.plot import figure_of

        return figure_of(self, **options)

    def save(self, path: str | Path) -> Path:
        """Writes the result as JSON and returns the path. Floats round-trip exactly.

        Raises:
            StorageError: It cannot be written there.
        """
        return write_file(path, json.dumps(encode(self)))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a result written by `save`.

        Raises:
            StorageError: The file does not exist, is damaged, or holds another type of result.
        """
        with reading(path, cls.__name__):
            content = from_json(Path(path).read_bytes(), cache_strings="all")  # the same words over and over
            found = content.pop("type", None) if isinstance(content, dict) else type(content).__name__
            if found != cls.__name__:
                raise ValueError(f"it holds a {found}")
            return cls(**{name: decode(value) for name, value in content.items()})


def _result_type(name: str) -> type[Result] | None:
    return next((kind for kind in Result.__subclasses__() if kind.__name__ == name), None)


def encode(value: Any) -> Any:
    """Turns results, arrays and containers into plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    return value


_CONTAINERS = frozenset((dict, list))


def decode(value: Any) -> Any:
    """The inverse of `encode`; lists become tuples."""
    if isinstance(value, dict) and value.keys() == {"array", "dtype", "shape"}:
        return np.asarray(value["array"], dtype=value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict) and (kind := _result_type(value.get("type", ""))) is not None:
        return kind(**{k: decode(v) for k, v in value.items() if k != "type"})
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list):  # results hold tuples, never lists
        return tuple(value) if _CONTAINERS.isdisjoint(map(type, value)) else tuple(decode(v) for v in value)
    return value
