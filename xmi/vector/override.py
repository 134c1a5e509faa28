"""Overriding: one task in the prompt, another one's vector patched in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from xmi.errors import TaskError, VectorError
from xmi.kernels import next_token_kernel
from xmi.measure import paper_hit, strict_hit
from xmi.measure.overriding import Overriding
from xmi.names import ASKED, INSTRUCTION, MODALITIES
from xmi.prompt import Batch, Prompt, Prompts, Segment, Task
from xmi.session import Session
from xmi.vector.extract import task_vector
from xmi.vector.foreign import announce_foreign
from xmi.vector.patch import layers_of
from xmi.vector.sweep import Patch, sweep
from xmi.vector.task_vector import TaskVector, check_fits, random_like


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
    session: Session,
    task: Task,
    other: Task,
    *,
    context: str = "text",
    query: str | None = None,
    vector: TaskVector | None = None,
    shots: int = 5,
    n: int = 30,
    seed: int = 0,
    layers: Sequence[int] | None = None,
    slot: str = "last",
    patch_slot: str = "last",
) -> Overriding:
    """Puts one task into the prompt, patches another at a slot of it, and sees whose label is answered.

    Asked are the validation and test items of `task` whose inputs `other` has too (`xmi.vector.shared_pairs`
    finds such tasks). Baselines: no patch, the instruction of `other` before the prompt as a system prompt, and a
    random vector of the patched one's norm.

    Args:
        task: The task in the prompt.
        other: The task that is patched in.
        context: What specifies the prompt's task: `text` or `image` examples, or the `instruction`.
        query: Modality of the query; by default that of the examples, `text` after an instruction.
        vector: The vector of `other`; by default read from text examples, none of which is asked. A vector of
            your own should not know them either.
        shots: Examples per prompt.
        n: Prompts that the default vector is the mean of.
        seed: Seed of the examples and of the random control.
        layers: After which blocks to patch; by default all.
        slot: Where the default vector is read, by default at the last token.
        patch_slot: Where it is patched in, by default at the last token.

    Returns:
        Who wins per layer, on validation items (for `best_layer`) and test items (reported).

    Raises:
        TaskError: The tasks share no validation or no test items, or `other` has no instruction.
        VectorError: A vector of another task, or one that does not fit.
        SlotError: A prompt lacks a slot.

    Source: Luo, Darrell and Bar, ICML 2025, section 5 (task overriding).

    Examples:
        >>> found = vlm.override(task, xmi.task("country-currency"), shots=2, n=4, layers=[4])
        >>> found.to_frame().shape
        (32, 8)
    """
    mine, theirs = contest(task, other)
    target = query or ("text" if context == INSTRUCTION else context)
    prompts = asked_prompts(mine, context, target, shots, seed)
    if vector is None:
        drawn = theirs.icl("text", shots=shots, n=n, seed=seed, split=theirs.examples)
        vector = task_vector(session, drawn, slot=slot)
    elif vector.card.task != other.name:
        raise VectorError(f"{vector.name} is not a vector of {other.name}, whose labels the answers are compared with.")
    told = session.encoder.framed(_system_prompts(prompts, other))
    prompts, backbone = session.encoder.framed(prompts), session.backbone
    fit = {"n_layers": backbone.n_layers, "d_model": backbone.d_model}
    check_fits(vector, template=prompts.template.hash, model=session.name, **fit)
    announce_foreign([vector], session)
    chosen = layers_of(layers, backbone.n_layers)
    written = torch.stack([v.values[list(chosen)] for v in (vector, random_like(vector, seed))])
    runs = _answers(session, Patch(written, chosen, patch_slot), prompts, told)
    decode = session.encoder.decode
    texts = tuple(tuple(decode(i) for i in run) for run in runs.tolist())
    labels = {i.input: {"answer": i.output, "alternatives": i.alternatives} for i in other.items}
    changed = replace(prompts, prompts=tuple(replace(p, **labels[p.input]) for p in prompts))  # type: ignore[arg-type]
    paper, strict = zip(*(_hits(session, wanted, runs.tolist(), texts) for wanted in (prompts, changed)), strict=True)
    splits = {i.input: i.split for i in mine.items}
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


def _answers(session: Session, patch: Patch, prompts: Prompts, told: Prompts) -> Int[torch.Tensor, "run prompt"]:
    """The first token of every run: without a patch, with the system prompt, and with each vector at each layer."""
    engine, encoder = session.engine, session.encoder

    def patched(batch: Batch) -> torch.Tensor:
        targets = encoder.answer_ids(batch.prompts, prompts.template)
        return sweep(session, batch, patch, targets).ids[..., 0]

    def asked(batch: Batch) -> torch.Tensor:
        targets = encoder.answer_ids(batch.prompts, told.template)
        [(ids, *_)] = engine.map(next_token_kernel, [(engine.forward(batch.inputs), engine.paths, targets)])
        return ids

    ways = ((patched, prompts, "overriding"), (asked, told, "asking with a system prompt"))
    found = engine.together(partial(do, batch) for do, some, doing in ways for batch in session.batches(some, doing))
    rows, baseline = torch.cat(found[: len(found) // 2]), torch.cat(found[len(found) // 2 :])
    return torch.cat([rows[:, :1], baseline, rows[:, 1:]], 1).T


def _hits(
    session: Session, prompts: Prompts, runs: list[list[int]], texts: Sequence[Sequence[str]]
) -> tuple[list[list[bool]], list[list[bool]]]:
    """Whether each run gives each prompt's label, by both scores."""
    right = [session.encoder.first_tokens(prompts.template.delimiter, p.answers) for p in prompts]
    paper = [[paper_hit(t, p.answers) for t, p in zip(run, prompts, strict=True)] for run in texts]
    strict = [[strict_hit(i, ids) for i, ids in zip(run, right, strict=True)] for run in runs]
    return paper, strict


def _system_prompts(prompts: Prompts, other: Task) -> Prompts:
    """The other task's instruction before each prompt."""
    if not other.instructions:
        raise TaskError(f"Task {other.name} has no instruction to put before the prompt: give it one.")
    head = (Segment("text", other.instructions[0]), Segment("text", prompts.template.separator))
    made: list[Prompt] = [replace(p, segments=(*head, *p.segments)) for p in prompts]
    return replace(prompts, prompts=tuple(made), specification=f"system prompt, {prompts.specification}")
