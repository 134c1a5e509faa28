"""Whatever has a `save` makes the folder it writes to, writes whole, and names the file it cannot write."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xmi
from xmi.lens import LensCard
from xmi.measure import Result
from xmi.measure.result import encode
from xmi.vector import VectorCard

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # wrong values are what is tried here

ORIGIN = {"model": "m", "revision": "r", "dtype": "float32", "versions": {"xmi": "0"}}


def vector() -> xmi.TaskVector:
    rest = {"task": "t", "specification": "s", "shots": 1, "seed": 0, "n": 1, "slot": "last", "template": "x"}
    return xmi.TaskVector(torch.arange(6.0).reshape(2, 3), VectorCard(**ORIGIN, **rest))


def lens() -> xmi.TunedLens:
    numbers = dict.fromkeys(("prompts", "tokens", "held_out", "steps", "size", "seed"), 1)
    rest = {"trained_on": ("t",), "slot": "last", "rate": 0.1, "decay": 0.1, "before": (1.0,), "after": (0.5,)}
    return xmi.TunedLens(torch.ones(1, 3, 3), torch.ones(1, 3), LensCard(**ORIGIN, **rest, **numbers))


def cache() -> xmi.ActivationCache:
    return xmi.ActivationCache({"blocks.0.hook_resid_post": torch.ones(1, 2, 3)}, {"n_layers": 1, "model": "m"})


SAMPLES: dict[type, Any] = {xmi.TaskVector: vector, xmi.TunedLens: lens, xmi.ActivationCache: cache}


def result(kind: type[Result]) -> Result:
    """A result whose fields hold anything of a result's kinds of values."""
    values = (("ü", 1.5), np.array([0.1, np.nan]), {"a": (1, 2)}, None)
    named = [field.name for field in dataclasses.fields(kind)]
    made = object.__new__(kind)
    for i, name in enumerate(named):
        object.__setattr__(made, name, values[i % len(values)])
    return made


def saving() -> list[type]:
    """Every class of xmi that can be saved."""
    found = set()
    for module in pkgutil.walk_packages(xmi.__path__, "xmi."):
        if module.name.startswith("xmi.data"):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = [c for c in kind.__mro__ if c.__module__.startswith("xmi.")]  # nnsight gives every object a `save`
            if kind in own and kind is not Result and any("save" in vars(c) for c in own):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


KINDS = saving()


def made(kind: type) -> Any:
    return result(kind) if issubclass(kind, Result) else SAMPLES[kind]()


def content(value: Any) -> Any:
    if isinstance(value, Result):
        return encode(value)
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    inner = value if isinstance(value, dict) else vars(value) if hasattr(value, "__dict__") else None
    return value if inner is None else {name: content(one) for name, one in inner.items()}


def test_all_kinds_are_here() -> None:
    assert set(SAMPLES) <= set(KINDS)
    assert len([kind for kind in KINDS if issubclass(kind, Result)]) >= 14


@pytest.mark.fault("B21")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_save_makes_the_folder_and_load_reads_it(kind: Any, tmp_path: Path) -> None:
    one = made(kind)
    path = one.save(tmp_path / "new" / "er" / "file")
    assert path == tmp_path / "new" / "er" / "file"
    np.testing.assert_equal(content(kind.load(path)), content(one))
    assert one.save(str(path)) == path, "again, over the first, from a string"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.fault("B21")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_cannot_be_written_or_read_is_one_error_that_names_the_file(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for wrong in (tmp_path / "taken" / "below", tmp_path):
        with pytest.raises(xmi.StorageError, match=str(wrong)):
            made(kind).save(wrong)
    with pytest.raises(xmi.XmiError):
        made(kind).save(None)
    whole = made(kind).save(tmp_path / "whole").read_bytes()
    damaged = {
        "none": None,
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "foreign": b'{"type":"Other"}',
        "list": b"[1]",
    }
    damaged |= {"deep": b"[" * 100_000, "binary": bytes(range(256))}
    for name, data in damaged.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(xmi.XmiError, match=str(tmp_path / name)):
            kind.load(tmp_path / name)
    with pytest.raises(xmi.XmiError):
        kind.load(tmp_path)
