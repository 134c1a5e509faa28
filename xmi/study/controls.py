"""Controls: what is patched in to see what any vector would do. One entry each, from which all else follows.

A control is either read from the model, at other prompts or another slot than the task's own vector, or made from
vectors that were read. The plan knows it by its name; tables, figures and contrasts by `control: ` before it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xmi import names

if TYPE_CHECKING:  # the command line needs the names for --help, and must not wait for torch
    from xmi.prompt import Prompt, Prompts
    from xmi.study.plan import Plan
    from xmi.vector import TaskVector

BEFORE = "example[0].delimiter"
"""The slot of the control `unrelated slot`: the same token as the one that is read, before any label was seen."""

Where = tuple["Prompts", str]
"""Prompts, and the slot at which they are read."""


@dataclass(frozen=True)
class Control:
    """A vector that should not carry the task; it has `read` or `make`.

    Attributes:
        name: What plans call it.
        read: Where it is read, given the plan, the prompts of the task's text ICL vector and the seed; None where the
            plan allows none.
        make: How it is made, given a task, the vectors that were read (by task, in the plan's order, and source) and
            the seed; None where it needs tasks that are not there.
    """

    name: str
    read: Callable[[Plan, Prompts, int], Where | None] | None = None
    make: Callable[[str, Mapping[str, Mapping[str, TaskVector]], int], TaskVector | None] | None = None

    @property
    def source(self) -> str:
        """What tables and figures call it."""
        return names.control(self.name)


def chosen(plan: Plan) -> list[Control]:
    """The controls of a plan."""
    return [control for control in REGISTRY if control.name in plan.controls]


def _random_vector(task: str, read: Mapping[str, Mapping[str, TaskVector]], seed: int) -> TaskVector:
    from xmi.vector import random_like

    text = read[task][names.TEXT_ICL]
    drawn = hashlib.sha256(f"{text.card.task}/{seed}".encode()).digest()  # another direction for each task
    return random_like(text, int.from_bytes(drawn[:4], "big"))


def _another_task(task: str, read: Mapping[str, Mapping[str, TaskVector]], seed: int) -> TaskVector | None:
    tasks = list(read)
    return read[tasks[(tasks.index(task) + 1) % len(tasks)]][names.TEXT_ICL] if len(tasks) > 1 else None


def _mean_over_tasks(task: str, read: Mapping[str, Mapping[str, TaskVector]], seed: int) -> TaskVector | None:
    import torch

    if len(read) < 2:
        return None
    every = [vectors[names.TEXT_ICL] for vectors in read.values()]
    changed = {"specification": names.MEAN, "n": sum(v.card.n for v in every)}
    values = torch.stack([v.values for v in every]).mean(0)
    own = read[task][names.TEXT_ICL]
    return type(own)(values, own.card.model_copy(update=changed))


def _shuffled_labels(plan: Plan, text: Prompts, seed: int) -> Where | None:
    return (shuffled(text, seed), plan.slot) if plan.shots > 1 else None


def shuffled(prompts: Prompts, seed: int) -> Prompts:
    """The same prompts with the labels of their examples reshuffled, no two equal to their own if that can be.

    The labels keep their words and their number, so that only what they say of the inputs is gone (Min et al.,
    "Rethinking the Role of Demonstrations", 2022).
    """
    rng = random.Random(f"shuffled/{seed}")
    return replace(prompts, prompts=tuple(_dealt(p, rng) for p in prompts), specification=names.SHUFFLED)


def _dealt(prompt: Prompt, rng: random.Random) -> Prompt:
    labels = [s.text for s in prompt.segments if s.role == "answer"]
    dealt = derangement(labels, rng)
    rest = iter(dealt)
    return replace(
        prompt, segments=tuple(replace(s, text=next(rest)) if s.role == "answer" else s for s in prompt.segments)
    )


def derangement(labels: Sequence[str], rng: random.Random) -> list[str]:
    """The labels in an order in which as few as possible stand at the place of an equal one.

    Equal labels are laid side by side, groups in a drawn order, and all are moved on by the size of the largest group:
    so every label comes to the place of another one whenever any order achieves that.
    """
    rank = {label: rng.random() for label in sorted(set(labels))}
    places = sorted(range(len(labels)), key=lambda i: (rank[labels[i]], rng.random()))
    largest = max(labels.count(label) for label in labels)
    dealt = list(labels)
    for k, place in enumerate(places):
        dealt[place] = labels[places[(k + largest) % len(places)]]
    return dealt


REGISTRY = (
    Control(names.without_control(names.RANDOM), make=_random_vector),
    Control(names.without_control(names.OTHER), make=_another_task),
    Control(names.without_control(names.MEAN), make=_mean_over_tasks),
    Control(names.without_control(names.SHUFFLED), read=_shuffled_labels),
    Control(names.without_control(names.UNRELATED), read=lambda plan, text, seed: (text, BEFORE)),
)
"""All controls, in the order of tables and figures."""

CONTROLS = tuple(control.name for control in REGISTRY)
"""What is patched in to see what any vector would do; the untrained model (`untrained`) is one more, on request."""
