"""The shapes in xmi's annotations are checked while tests run."""

from __future__ import annotations

import inspect
from importlib import import_module

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped

from tests.shapes import arrays_only, modules
from xmi import kernels
from xmi.measure.paired import paired


@jaxtyped(typechecker=arrays_only)
def mean_wrongly_annotated(values: Float[torch.Tensor, "prompt d_model"]) -> Float[torch.Tensor, " prompt"]:
    return values.mean(0)


@jaxtyped(typechecker=arrays_only)
def mean(values: Float[torch.Tensor, "prompt d_model"], _other: int = 0) -> Float[torch.Tensor, " d_model"]:
    return values.mean(0)


def test_a_wrong_annotation_fails() -> None:
    with pytest.raises(TypeCheckError, match=r"checking the return value of .*mean_wrongly_annotated"):
        mean_wrongly_annotated(torch.zeros(2, 3))
    with pytest.raises(TypeCheckError, match="parameter 'values'"):
        mean(torch.zeros(3))
    assert mean(torch.zeros(2, 3), "not an array: left to xmi.arguments").shape == (3,)  # type: ignore[arg-type]


def test_xmi_is_checked_so() -> None:
    """Calls from outside meet `xmi.arguments` first; this is what xmi's own calls meet."""
    inner = inspect.unwrap(paired, stop=lambda f: not hasattr(f, "__guarded__"))
    with pytest.raises(TypeCheckError, match="parameter 'differences'"):
        inner(np.zeros(3), ["a"])


def test_every_module_that_writes_shapes_is_checked_except_what_travels_as_source() -> None:
    assert {"xmi.vector.task_vector", "xmi.measure.paired", "xmi.lens.base"} <= set(modules())
    assert not [name for name in modules() if name.startswith(("xmi.kernels", "xmi.remote"))]
    for name in modules():
        assert type(import_module(name).__loader__).__module__ == "jaxtyping._import_hook", name
    assert type(kernels.sweep_kernel.__globals__["__loader__"]).__module__ != "jaxtyping._import_hook"
