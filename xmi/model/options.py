"""Options of loading, understood or refused by name before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from xmi.errors import ModelError

SHORT = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "f16": torch.float16,
    "fp32": torch.float32,
    "f32": torch.float32,
    "fp64": torch.float64,
    "f64": torch.float64,
}
"""Names of precisions that torch does not know."""

PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""What a model can compute in."""


def find_device(wanted: str | int | torch.device | None) -> torch.device:
    """The device that is meant; by default a GPU if there is one, else the CPU.

    Raises:
        ModelError: It is not here; the error says what is.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(wanted)
        if place.type != "meta":
            torch.empty(1, device=place)
    except Exception as error:  # torch raises AssertionError, RuntimeError, NotImplementedError, ...
        raise ModelError(f"There is no device {wanted!r} here; there is: {', '.join(devices())}.") from error
    if place.type == "cpu" and place.index:
        raise ModelError(f"There is no device {wanted!r} here; there is: {', '.join(devices())}.")
    return place


def devices() -> list[str]:
    """Names of the devices of this machine."""
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    found += ["mps"] if torch.backends.mps.is_available() else []
    found += [f"xpu:{i}" for i in range(torch.xpu.device_count())] if torch.xpu.is_available() else []
    return [*found, "meta (no weights)"]


def find_dtype(wanted: torch.dtype | str) -> torch.dtype | None:
    """The precision that is meant: a dtype of torch, its name, or a common short name (bf16, fp16, fp32, ...).

    Returns:
        The precision; None for `auto`.

    Raises:
        ModelError: No model computes in it.
    """
    if wanted == "auto":
        return None
    found: Any = wanted
    if isinstance(wanted, str):
        name = wanted.strip().lower().removeprefix("torch.")
        found = SHORT.get(name, getattr(torch, name, None))
    if not isinstance(found, torch.dtype) or found not in PRECISIONS:
        names = ", ".join(str(p).removeprefix("torch.") for p in PRECISIONS)
        raise ModelError(f"Unknown dtype {wanted!r}; use {names} (short: bf16, fp16, fp32) or auto.")
    return found


def find_quantization(wanted: str | Any | None) -> Any | None:
    """The quantisation that is meant, as a configuration of transformers.

    Raises:
        ModelError: It is none.
    """
    if wanted is None or isinstance(wanted, (QuantizationConfigMixin, dict)):
        return wanted
    if wanted not in ("4bit", "8bit"):
        raise ModelError(f"Unknown quantization {wanted!r}; use '8bit', '4bit' or a configuration of transformers.")
    chosen: dict[str, Any] = {f"load_in_{wanted}": True}
    return BitsAndBytesConfig(**chosen)  # type: ignore[no-untyped-call]


def count(name: str, wanted: Any) -> int:
    """A number of things, at least one.

    Raises:
        ModelError: It is none.
    """
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise ModelError(f"{name}={wanted!r}: give a whole number, at least 1.")
    return wanted
