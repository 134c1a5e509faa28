"""What a study's numbers depend on: the plan, every byte of its models and tasks, and how the models are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from xmi.prompt import Task
from xmi.study.grid import Subject
from xmi.study.prepare import Prepared

OPTIONS = ("dtype", "device", "device_map", "quantization", "attn_implementation", "batch_size", "remote")
"""Options of `xmi.load` that change numbers, if only in their last digits."""

DEFAULTS = (None, "auto", 16, False)
"""What these options are if they are not given."""


@dataclass(frozen=True)
class Identity:
    """What a study is of; every stored cell carries it.

    Attributes:
        plan: Hash of the plan.
        models: Revision of each model's files, by its name in the study.
        tasks: Hash of each task's content, by its name.
        options: Options of loading that were given and change numbers.
    """

    plan: str
    models: dict[str, str]
    tasks: dict[str, str]
    options: dict[str, str]

    @property
    def hash(self) -> str:
        """A short hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """One line per model, task and option in which a stored identity (as JSON) differs from this one.

        The plan is left to `Plan.differences`, which says more.
        """
        lines = []
        for kind in ("models", "tasks", "options"):
            before, now = stored.get(kind), getattr(self, kind)
            before = before if isinstance(before, Mapping) else {}
            for name in dict.fromkeys([*before, *now]):
                old, new = before.get(name), now.get(name)
                if old != new and not (name == "device" and None in (old, new)):  # a device that is not named is found
                    lines.append(f"{kind.removesuffix('s')} {name}: {old or 'not there'} -> {new or 'not there'}")
        return lines

    def fits(self, stored: object) -> bool:
        """Whether something stored is of the same study."""
        return isinstance(stored, Mapping) and stored.get("plan") == self.plan and not self.differences(stored)


def identify(asked: Prepared, models: Mapping[str, Subject]) -> Identity:
    """The identity of a study.

    Args:
        asked: What it will do.
        models: Its models.
    """
    return Identity(
        hashlib.sha256(asked.plan.model_dump_json().encode()).hexdigest(),
        {name: asked.revisions[one.source, one.revision] for name, one in models.items()},
        {task.name: content_of(task) for task in asked.tasks.values()},
        {key: _spoken(key, asked.loading[key]) for key in OPTIONS if asked.loading.get(key) not in DEFAULTS},
    )


def _spoken(key: str, value: object) -> str:
    """An option as text, the same for the same meaning."""
    if key == "device":
        return torch.device(value).type  # type: ignore[call-overload,no-any-return]
    return str(value).removeprefix("torch.")


def content_of(task: Task) -> str:
    """A hash of all that a task asks; images count by their bytes, wherever they lie."""
    template = ", ".join(f"{name}={value!r}" for name, value in asdict(task.template).items())  # whole: a repr is cut
    parts = [repr(part) for part in (task.name, task.instructions, task.task_words, task.examples)]
    parts.insert(3, f"{type(task.template).__name__}({template})")
    digest = hashlib.sha256(f"({', '.join(parts)})".encode("utf-8", "replace"))
    for item in task.items:
        digest.update(repr((item.input, item.outputs, item.split)).encode("utf-8", "replace"))
        digest.update(hashlib.sha256(item.image.read_bytes()).digest() if item.image else b"no image")
    return digest.hexdigest()[:16]
