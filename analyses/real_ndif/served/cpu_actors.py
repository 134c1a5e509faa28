"""Actors of `ndif` 0.1.2 for a machine without a GPU: imported by the server, in its own environment.

`ndif` is told of them by NDIF_MODEL_IMPORT_PATH and NDIF_CONTROLLER_IMPORT_PATH. They change three things: where the
weights are put, that nobody waits for a CUDA device, and that nnsight is not handed an argument it does not know. Jobs
are queued, unpacked, run, stored and reported by the server's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable


def _untrusting(describe: Callable[..., Any]) -> Any:
    """Takes away `trust_remote_code`, which ndif 0.1.2 passes and nnsight 0.8.1 does not take (it reads the key's)."""

    @wraps(describe)
    def called(*args: Any, trust_remote_code: bool = False) -> Any:
        return describe(*args)

    return staticmethod(called)


Remotable.describe_checkpoint = _untrusting(Remotable.describe_checkpoint)
Remotable.max_tp_size = _untrusting(Remotable.max_tp_size)

torch.cuda.synchronize = lambda device=None: None  # called after every job; without a GPU it raises


class _CPUModel(BaseModelDeployment):
    CACHEABLE = False

    def load_from_disk(self) -> HuggingFaceModel:
        self.gpu_mem_bytes_by_id = {}  # whatever cards the controller assigned
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model


class _CPUController(_ControllerActor):
    pass


# Ray ships a decorated class by value, but its base by name: only so is this module imported where the actor runs.
@ray.remote(num_cpus=1, max_restarts=0)
class CPUModel(_CPUModel):
    """A model on the CPU. Ray does not restart it: a model that cannot be loaded is reported, not tried for ever."""


@ray.remote(num_cpus=1, max_restarts=0, resources={"head": 1})
class CPUController(_CPUController):
    """The controller, in a process that has imported the changes above."""
