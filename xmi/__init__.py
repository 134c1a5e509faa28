"""xmi: where, and in what form, does a vision-language model hold the task it was given?

Examples:
    >>> import xmi
    >>> vlm = xmi.load("organism")
    >>> task = xmi.task("country-capital")
    >>> vector = vlm.task_vector(task.icl("text", shots=5))
    >>> sweep = vlm.transfer(vector, to=task.queries("image"))
    >>> sweep.to_frame()[["layer", "accuracy", "n"]].tail(3).round(2)
       layer  accuracy   n
    5      5      1.00  19
    6      6      0.42  19
    7      7      0.00  19
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmi.errors import (
        ArgumentError,
        HookError,
        JobError,
        MeasureError,
        ModelError,
        NotMeasuredError,
        PromptError,
        RemoteError,
        RunError,
        SlotError,
        StorageError,
        TaskError,
        VectorError,
        XmiError,
        XmiWarning,
    )
    from xmi.hooks import ActivationCache, Hook
    from xmi.lens import TunedLens
    from xmi.loading import load
    from xmi.measure.compare import compare
    from xmi.prompt import Template, check_task, free_prompt, task_names
    from xmi.prompt import load_task as task
    from xmi.study import StudyResults
    from xmi.study import run_study as run
    from xmi.vector import TaskVector, ensemble, random_like, similarity
    from xmi.vlm import VLM

__version__ = "0.1.0"

# Nothing heavy is imported before it is used: `import xmi` and `xmi --help` must not wait for torch.
_HOME = {
    "load": ("xmi.loading", "load"),
    "VLM": ("xmi.vlm", "VLM"),
    "ActivationCache": ("xmi.hooks", "ActivationCache"),
    "Hook": ("xmi.hooks", "Hook"),
    "similarity": ("xmi.vector", "similarity"),
    "task": ("xmi.prompt", "load_task"),
    "task_names": ("xmi.prompt", "task_names"),
    "free_prompt": ("xmi.prompt", "free_prompt"),
    "Template": ("xmi.prompt", "Template"),
    "TunedLens": ("xmi.lens", "TunedLens"),
    "check_task": ("xmi.prompt", "check_task"),
    "compare": ("xmi.measure", "compare"),
    "TaskVector": ("xmi.vector", "TaskVector"),
    "ensemble": ("xmi.vector", "ensemble"),
    "random_like": ("xmi.vector", "random_like"),
    "run": ("xmi.study", "run_study"),
    "StudyResults": ("xmi.study", "StudyResults"),
    **{
        name: ("xmi.errors", name)
        for name in (
            "XmiError",
            "ArgumentError",
            "XmiWarning",
            "HookError",
            "MeasureError",
            "ModelError",
            "NotMeasuredError",
            "TaskError",
            "PromptError",
            "SlotError",
            "VectorError",
            "JobError",
            "RemoteError",
            "RunError",
            "StorageError",
        )
    },
}

__all__ = [
    "VLM",
    "ActivationCache",
    "ArgumentError",
    "Hook",
    "HookError",
    "JobError",
    "MeasureError",
    "ModelError",
    "NotMeasuredError",
    "PromptError",
    "RemoteError",
    "RunError",
    "SlotError",
    "StorageError",
    "StudyResults",
    "TaskError",
    "TaskVector",
    "Template",
    "TunedLens",
    "VectorError",
    "XmiError",
    "XmiWarning",
    "check_task",
    "compare",
    "ensemble",
    "free_prompt",
    "load",
    "random_like",
    "run",
    "similarity",
    "task",
    "task_names",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'xmi' has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)
