"""The names of things on a host: a model's key, and a job's fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import torch
from nnsight.modeling.huggingface import _ID_CACHE

from xmi.backend import Call
from xmi.errors import RemoteError
from xmi.remote.pytree import raw, split


def model_key(envoy: Any) -> str:
    """The key by which an NDIF host knows a model: nnsight's class, and Hub id, revision and task.

    Args:
        envoy: nnsight model, on the meta device.

    Returns:
        The key, with the id as the Hub spells it.

    Raises:
        RemoteError: The model was not named by a Hub id, or the Hub cannot confirm it.
    """
    named = getattr(envoy, "repo_id", None)
    if not isinstance(named, str) or not named or (named not in _ID_CACHE and Path(named).expanduser().exists()):
        raise RemoteError(
            f"NDIF knows models by their id on the Hugging Face Hub; found {named or 'a module in memory'!r}, which is "
            "not one. Load the model by its Hub id (org/name)."
        )
    try:
        return str(envoy.to_model_key())
    except (OSError, ValueError, httpx.HTTPError) as error:
        found = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise RemoteError(
        f"The Hugging Face Hub does not confirm the id {named!r}, by which NDIF knows the model: {found} Check its "
        "spelling, your access to it, and the connection."
    )


def fingerprint(model_key: str, calls: Sequence[Call], env: Mapping[str, Any] | None = None, label: str = "") -> str:
    """Identity of a job: the same calls on the same model for the same purpose, in any process at any time.

    Args:
        model_key: The model's key.
        calls: Kernels and arguments.
        env: What nnsight has the host apply to the model beforehand.
        label: What they are for: of two cells of a study that ask the same, each has a job.

    Returns:
        sha256 in hexadecimal over the key, the label, the kernels' source code, and every call's kernel and arguments.

    Raises:
        RemoteError: An argument cannot travel.
    """
    tensors: list[torch.Tensor] = []
    shapes = [[kernel.__qualname__, split(list(args), tensors, kernel.__name__)] for kernel, args in calls]
    kinds = [[str(tensor.dtype), list(tensor.shape)] for tensor in tensors]
    digest = hashlib.sha256()
    about = [model_key, label, dict(env or {}), _kernel_code(), shapes, kinds]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(raw(tensor))
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _kernel_code() -> str:
    """Other code is another job, even under the same names."""
    sources = sorted((f for f in files("xmi.kernels").iterdir() if f.name.endswith(".py")), key=lambda f: f.name)
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name}:".encode() + source.read_bytes())
    return digest.hexdigest()
