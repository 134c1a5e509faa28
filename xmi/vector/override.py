"""Overriding: one task in the prompt, another one's vector patched in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from xmi.errors import TaskError, VectorError
from xmi.kernels import next_token_kernel
from xmi.measure import paper_hit, strict_hit
from xmi.measure.overriding import Overriding
from xmi.model import Engine
from xmi.names import ASKED, INSTRUCTION, MODALITIES
from xmi.prompt import Batch, Encoder, Prompt, Prompts, Segment, Task
from xmi.vector.foreign import announce_foreign
from xmi.vector.patch import _layers
from xmi.vector.sweep import Patch, sweep
from xmi.vector.task_vector import TaskVector, check_fits, random_like

Batches = Callable[[Prompts, str], Iterable[Batch]]


def shared_pairs(tasks: Sequence[Task]) -> list[tuple[Task, Task]]:
    """Ordered pairs of tasks that can override each other: some inputs are the same, in validation and in test.

    Args:
        tasks: The tasks.

    Returns:
        (task in the prompt, task that is patched in), in the order of the tasks. Found by inputs, not by names.
    """
    found = []
    for task in tasks:
        for other in tasks:
            inputs = {i.input for i in other.items}
            shared = {i.split for i in task.items if i.input in inputs}
            if task is not other and shared.issuperset(ASKED):
                found.append((task, other))
    return found


def contest(task: Task, other: Task) -> tuple[Task, Task]:
    """Prepares two tasks for overriding.

    Args:
        task: The task in the prompt.
        other: The task that is patched in.

    Returns:
        The first with only shared items to ask in validation and test; the second with its examples alone, without
        the items that are asked, so that its vector does not know them. If examples come from validation items (as in
        the published data), only test items are kept from it.

    Raises:
        TaskError: No shared validation or test items.
    """
    inputs = {i.input for i in other.items}
    asked = {i.input: i.split for i in task.items if i.input in inputs and i.split in ASKED}
    for split in ASKED:
        if split not in asked.values():
            raise TaskError(
                f"{task.name} and {other.name} share {len(inputs & {i.input for i in task.items})} inputs, none of "
                f"them a {split} item of {task.name}: overriding asks inputs that both tasks answer."
            )
    hidden = {name for name, split in asked.items() if split != task.examples}
    mine = tuple(i for i in task.items if i.split == task.examples or i.input in asked)
    theirs = tuple(i for i in other.items if i.split == other.examples and i.input not in hidden)
    return replace(task, items=mine), replace(other, items=theirs)


def asked_prompts(task: Task, context: str, query: str, shots: int, seed: int) -> Prompts:
    """Prompts of the task in all its validation and test items, in this order.

    Args:
        task: The first task of `contest`.
        context: `text` or `image` examples, or `instruction`.
        query: Modality of the query.
        shots: Examples per prompt.
        seed: Seed of the examples.

    Raises:
        TaskError: Unknown context or modality, or a task that lacks what is needed.
    """
    if context not in (*MODALITIES, INSTRUCTION):
        raise TaskError(f"Unknown context {context!r}; use text, image or instruction.")
    parts = [
        task.queries(query, split=split, instruction=True)
        if context == INSTRUCTION
        else task.icl(context, shots=shots, n=None, seed=seed, split=split, query=query)
        for split in ASKED
    ]
    return replace(parts[0], prompts=tuple(p for part in parts for p in part), split="validation and test")


def override(
    engine: Engine,
    encoder: Encoder,
    task: Task,
    other: Task,
    asked: Task,
    prompts: Prompts,
    batches: Batches,
    vector: TaskVector,
    layers: Sequence[int] | None,
    seed: int,
    slot: str = "last",
    kin: Collection[str] = (),
) -> Overriding:
    """Patches another task into prompts of a task; see `VLM.override`.

    Args:
        engine: The model.
        encoder: Prompts to inputs.
        task: The task in the prompt.
        other: The task that is patched in, with all items: its labels.
        asked: The first task of `contest`: its items' splits.
        prompts: Of `asked_prompts`.
        batches: Encodes prompts in batches.
        vector: Of the other task.
        layers: Where to patch, by default everywhere.
        seed: Seed of the random control.
        slot: Where to patch.
        kin: Revisions of other models whose vectors are meant.

    Raises:
        VectorError: A vector of another task or that does not fit, or unknown layers.
        TaskError: The other task has no instruction for the baseline.
    """
    if vector.card.task != other.name:
        raise VectorError(f"{vector.name} is no vector of {other.name}, whose labels the answers are compared with.")
    backbone = engine.backbone
    fit = {"n_layers": backbone.n_layers, "d_model": backbone.d_model}
    check_fits(vector, template=prompts.template.hash, model=engine.checkpoint.name, **fit)
    announce_foreign([vector], engine, kin)
    chosen = _layers(layers, backbone.n_layers)
    written = torch.stack([v.values[list(chosen)] for v in (vector, random_like(vector, seed))])
    told = _system_prompts(prompts, other)

    def patch(batch: Batch) -> torch.Tensor:
        targets = encoder.answer_ids(batch.prompts, prompts.template)
        return sweep(engine, encoder, batch, Patch(written, chosen, slot), targets).ids[..., 0]

    def tell(batch: Batch) -> torch.Tensor:
        targets = encoder.answer_ids(batch.prompts, told.template)
        [(ids, *_)] = engine.map(next_token_kernel, [(engine.forward(batch.inputs), targets)])
        return ids

    ways = ((patch, prompts, "overriding"), (tell, told, "asking with a system prompt"))
    found = engine.together(partial(do, batch) for do, some, doing in ways for batch in batches(some, doing))
    patched, baseline = torch.cat(found[: len(found) // 2]), torch.cat(found[len(found) // 2 :])
    runs = torch.cat([patched[:, :1], baseline, patched[:, 1:]], 1).T
    texts = tuple(tuple(encoder.decode(i) for i in run) for run in runs.tolist())
    labels = {i.input: {"answer": i.output, "alternatives": i.alternatives} for i in other.items}
    theirs = replace(prompts, prompts=tuple(replace(p, **labels[p.input]) for p in prompts))  # type: ignore[arg-type]
    before = prompts.template.delimiter
    splits = {i.input: i.split for i in asked.items}
    paper, strict = [], []
    for wanted in (prompts, theirs):
        paper.append([[paper_hit(t, p.answers) for t, p in zip(run, wanted, strict=True)] for run in texts])
        right = [encoder.first_tokens(before, p.answers) for p in wanted]
        strict.append([[strict_hit(i, ids) for i, ids in zip(run, right, strict=True)] for run in runs.tolist()])
    return Overriding(
        context=prompts.specification,
        source=vector.card.specification,
        layers=chosen,
        tasks=(task.name,) * len(prompts),
        others=(other.name,) * len(prompts),
        units=tuple(p.unit for p in prompts),
        inputs=tuple(p.input for p in prompts),
        splits=tuple(splits[p.input] for p in prompts),
        predicted=texts,
        paper=np.array(paper),
        strict=np.array(strict),
    )


def _system_prompts(prompts: Prompts, other: Task) -> Prompts:
    """The other task's instruction before each prompt."""
    if not other.instructions:
        raise TaskError(f"Task {other.name} has no instruction to put before the prompt: give it one.")
    head = (Segment("text", other.instructions[0]), Segment("text", prompts.template.separator))
    made: list[Prompt] = [replace(p, segments=(*head, *p.segments)) for p in prompts]
    return replace(prompts, prompts=tuple(made), specification=f"system prompt, {prompts.specification}")
