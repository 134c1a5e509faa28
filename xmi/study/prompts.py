"""What is asked of a model in a study, as lists of prompts: the same lists are run, and counted beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from xmi import names
from xmi.names import (
    ASKED,
    IMAGE_ICL,
    INSTRUCTION,
    ONE_EXAMPLE,
    TEXT_ICL,
    is_of_base,
    needs_instruction,
    of_base,
    parts_of,
)
from xmi.prompt import Prompts, Task
from xmi.study.controls import chosen
from xmi.study.plan import READ, Plan


@dataclass(frozen=True)
class Read:
    """Residuals to read.

    Attributes:
        slots: Where, by the name of the source that it gives.
        prompts: The prompts.
        base: Whether the base LLM is read.
    """

    slots: dict[str, str]
    prompts: Prompts
    base: bool = False


@dataclass(frozen=True)
class Ask:
    """Prompts to answer: how the task is given, the modality of the query, and the prompts."""

    source: str
    target: str
    prompts: Prompts


@dataclass(frozen=True)
class Sweep:
    """Queries to patch every vector into."""

    target: str
    split: str
    prompts: Prompts


def reads(plan: Plan, task: Task, seed: int) -> list[Read]:
    """What is read for a task's vectors, and for the geometry (ICL in every modality)."""
    needed = {*map(names.icl, plan.modalities), *(part for name in plan.sources for part in parts_of(name))}
    text = icl(plan, task, "text", seed)
    few = task.icl("text", shots=1, n=1, seed=seed)
    made = {
        TEXT_ICL: lambda: text,
        IMAGE_ICL: lambda: icl(plan, task, "image", seed),
        INSTRUCTION: task.instruction,
        ONE_EXAMPLE: lambda: few,
        of_base(TEXT_ICL): lambda: text,
        of_base(INSTRUCTION): task.instruction,
    }
    slots = {name: "last" if needs_instruction(name) else plan.slot for name in READ}
    found = [Read({n: slots[n]}, made[n](), base=is_of_base(n)) for n in READ if n in needed]
    for control in chosen(plan):
        if control.read and (where := control.read(plan, text, seed)):
            prompts, slot = where
            shared = next((step for step in found if step.prompts is prompts and not step.base), None)
            if shared is None:
                found.append(shared := Read({}, prompts))
            shared.slots[control.source] = slot
    return found


def asks(plan: Plan, task: Task, seed: int) -> Iterator[Ask]:
    """The prompting baselines on test items: Base, xBase and instruction."""
    for source in plan.modalities:
        for target in plan.targets:
            yield Ask(names.icl(source), target, icl(plan, task, source, seed, split="test", query=target))
    for target in plan.targets if plan.needs_instructions else ():
        yield Ask(INSTRUCTION, target, task.queries(target, instruction=True))


def sweeps(plan: Plan, task: Task) -> Iterator[Sweep]:
    """Context-free queries: on validation items, which choose the layer, and on test items."""
    for target in plan.targets:
        for split in ASKED:
            yield Sweep(target, split, task.queries(target, split=split))


def follows(plan: Plan, task: Task, seed: int) -> Iterator[tuple[str, Prompts]]:
    """What phases are read from: examples of either modality, and the instruction before a query."""
    for modality in plan.modalities:
        prompts = icl(plan, task, modality, seed, split="test")
        yield prompts.specification, prompts
    for modality in plan.modalities if plan.needs_instructions else ():
        yield f"{INSTRUCTION}, {modality} query", task.queries(modality, instruction=True)


def lens_prompts(plan: Plan, tasks: Iterable[Task]) -> list[Prompts]:
    """What a tuned lens is trained on and task words are found on: the prompts that vectors are read on."""
    return [icl(plan, task, modality, plan.seeds[0]) for task in tasks for modality in plan.modalities]


def words_wanted(plan: Plan, tasks: Collection[Task]) -> bool:
    """Whether task words must be found: they are asked for, or a task has none. With one task nothing stands out."""
    return len(tasks) > 1 and (plan.task_words == "found" or not all(task.task_words for task in tasks))


def icl(
    plan: Plan, task: Task, modality: str, seed: int, *, split: str | None = None, query: str | None = None
) -> Prompts:
    """ICL prompts of a plan: those that vectors are read from, or those asked on a split."""
    n = plan.prompts if split is None else None
    return task.icl(modality, shots=plan.shots, n=n, seed=seed, split=split or plan.vectors_from, query=query)
