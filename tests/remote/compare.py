"""Two results, number by number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from xmi.hooks import ActivationCache

TOLERANCE = 1e-5
"""How far a number from the host may be from the same one computed here, both in float32."""


def differences(one: Any, two: Any, where: str = "", atol: float = TOLERANCE) -> list[str]:
    """Where two results differ: numbers by more than the tolerance, everything else at all."""
    if isinstance(one, ActivationCache):
        return differences([dict(one), one.card], [dict(two), two.card], where, atol)
    if isinstance(one, BaseModel):
        one, two = one.model_dump(), two.model_dump()
    elif dataclasses.is_dataclass(one):
        one, two = vars(one), vars(two)
    if isinstance(one, torch.Tensor):
        one, two = one.numpy(), two.numpy()
    if isinstance(one, np.ndarray) and one.dtype != object:
        same = (
            one.shape == two.shape
            and one.dtype == two.dtype
            and np.allclose(one, two, rtol=0, atol=atol, equal_nan=True)
        )
        return [] if same else [f"{where}: {one} != {two}"]
    if isinstance(one, Mapping):
        if list(one) != list(two):
            return [f"{where}: {list(one)} != {list(two)}"]
        return [d for key in one for d in differences(one[key], two[key], f"{where}.{key}", atol)]
    if isinstance(one, (list, tuple, np.ndarray)):
        if len(one) != len(two):
            return [f"{where}: {one} != {two}"]
        return [
            d for i, pair in enumerate(zip(one, two, strict=True)) for d in differences(*pair, f"{where}[{i}]", atol)
        ]
    if isinstance(one, float):
        return (
            []
            if math.isclose(one, two, rel_tol=0, abs_tol=atol) or (one != one and two != two)
            else [f"{where}: {one} != {two}"]
        )
    return [] if one == two else [f"{where}: {one!r} != {two!r}"]
