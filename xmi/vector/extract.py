"""Reading the residual stream at slots of prompts: residuals, and the task vectors that are their means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float

from xmi.errors import ModelError, VectorError
from xmi.kernels import residual_kernel
from xmi.model.finite import ADVICE
from xmi.prompt import PromptLike, Prompts, as_prompts
from xmi.session import Session
from xmi.vector.task_vector import Residuals, TaskVector, VectorCard


def residuals(session: Session, prompts: PromptLike, *, slot: str = "last") -> Residuals:
    """Reads the residual stream after every block at a slot of every prompt.

    Args:
        prompts: The prompts.
        slot: A named position, by default the last token (the delimiter that precedes the answer).

    Returns:
        float32 values [prompt, layer, d_model] with their card.

    Raises:
        SlotError: A prompt lacks the slot.

    Examples:
        >>> vlm.residuals(task.icl("text", n=4)).values.shape  # prompt, layer, d_model
        torch.Size([4, 8, 128])
    """
    return residuals_at(session, prompts, [slot])[slot]


def residuals_at(session: Session, prompts: PromptLike, slots: Sequence[str]) -> dict[str, Residuals]:
    """Reads several slots in the same forwards.

    Args:
        prompts: The prompts.
        slots: Named positions.

    Returns:
        What `residuals` returns, by slot.

    Raises:
        SlotError: A prompt lacks a slot.

    Examples:
        >>> found = vlm.residuals_at(task.icl("text", n=4), ["query.input", "last"])
        >>> {slot: tuple(residuals.values.shape) for slot, residuals in found.items()}
        {'query.input': (4, 8, 128), 'last': (4, 8, 128)}
    """
    several, values, _ = _read(session, prompts, slots)
    return {slot: Residuals(values[:, i], _card(session, several, slot)) for i, slot in enumerate(slots)}


def vectors_at(
    session: Session, prompts: PromptLike, slots: Sequence[str], *, keep: int = 0
) -> dict[str, tuple[TaskVector, Residuals]]:
    """Task vectors at several slots from the same forwards; means are taken where the model runs.

    Args:
        prompts: Prompts that specify one task.
        slots: Named positions.
        keep: How many of the prompts' own residuals to return in addition to their mean.

    Returns:
        By slot: the mean over all prompts, [layer, d_model], and the residuals of the first prompts.

    Raises:
        SlotError: A prompt lacks a slot.

    Examples:
        >>> found = vlm.vectors_at(task.icl("text", n=4), ["query.input", "last"], keep=2)
        >>> vector, kept = found["last"]
        >>> vector.values.shape, kept.values.shape  # layer, d_model; prompt, layer, d_model
        (torch.Size([8, 128]), torch.Size([2, 8, 128]))
    """
    several, values, [mean] = _read(session, prompts, slots, keep)
    some = several[: len(values)]
    return {
        slot: (TaskVector(mean[i], _card(session, several, slot)), Residuals(values[:, i], _card(session, some, slot)))
        for i, slot in enumerate(slots)
    }


def nested_vectors(
    session: Session, prompts: PromptLike, sizes: Sequence[int], *, slot: str = "last"
) -> list[TaskVector]:
    """Task vectors of the first few prompts, of some more, ...: the mean over each number of them.

    Args:
        prompts: Prompts that specify one task.
        sizes: Numbers of prompts, rising.
        slot: Where to read.

    Raises:
        VectorError: The numbers do not rise from 1 or more to the number of prompts at most.
        SlotError: A prompt lacks the slot.

    Examples:
        >>> [vector.card.n for vector in vlm.nested_vectors(task.icl("text", n=10), sizes=[1, 3, 10])]
        [1, 3, 10]
    """
    batch = session.accepted(prompts)
    several = session.encoder.framed(as_prompts(prompts if batch is None else batch.prompts, session.encoder.chat))
    if not sizes or sizes[0] < 1 or sizes[-1] > len(several) or any(a >= b for a, b in pairwise(sizes)):
        raise VectorError(f"Means over {list(sizes)} of {len(several)} prompts: numbers must rise from 1 up to that.")
    whole = batch is not None and sizes[-1] == len(several)
    _, _, means = _read(session, prompts if whole else several[: sizes[-1]], [slot], 0, sizes)
    return [TaskVector(mean[0], _card(session, several[:size], slot)) for mean, size in zip(means, sizes, strict=True)]


def task_vector(session: Session, prompts: PromptLike, *, slot: str = "last") -> TaskVector:
    """The mean over prompts of the residual at a slot, at every layer.

    Args:
        prompts: Prompts that specify one task, by examples or instruction.
        slot: Where to read, by default the last token.

    Returns:
        Values [layer, d_model] with their card.

    Source: Luo, Darrell and Bar, ICML 2025, section 3.

    Examples:
        >>> vector = vlm.task_vector(task.icl("text", shots=5))
        >>> vector.name, vector.values.shape  # layer, d_model
        ('country-capital · text ICL', torch.Size([8, 128]))
    """
    return vectors_at(session, prompts, [slot])[slot][0]


Stopped = tuple[int, list[int]]
"""The number of a batch's first prompt, and the rows of it up to which sums are taken."""


def _read(
    session: Session, prompts: PromptLike, slots: Sequence[str], keep: int | None = None, sizes: Sequence[int] = ()
) -> tuple[Prompts, Float[torch.Tensor, "prompt slot layer d_model"], list[Float[torch.Tensor, "slot layer d_model"]]]:
    """The prompts, residuals of the first or of all, and their means over the first so many, by default all."""
    with session.prepared(prompts, "reading residuals") as (several, batches):
        kept = len(several) if keep is None else keep
        wanted = tuple(sizes) or (len(several),)

        def calls() -> Iterator[tuple[Stopped, tuple[Any, ...]]]:
            seen = 0
            for batch in batches:
                columns = torch.stack([batch.columns(slot) for slot in slots], 1)
                inputs, back = session.engine.reading(batch.inputs, columns)
                ends = sorted({*(s - seen for s in wanted if seen < s < seen + len(batch)), len(batch)})
                yield (seen, ends), (inputs, session.engine.paths, back, max(0, kept - seen), ends)
                seen += len(batch)

        found = session.each(residual_kernel, calls())
    before, total = torch.tensor(0.0), dict[int, torch.Tensor]()
    for (start, ends), (_, part) in found:
        total |= {start + end: before + some for end, some in zip(ends, part, strict=True)}
        before = total[start + ends[-1]]
    if not bool(torch.isfinite(before).all()):
        layer = int((~torch.isfinite(before)).any(-1).any(0).nonzero()[0])
        raise ModelError(f"{session.name}: the residual stream is infinite at a slot after block {layer}. {ADVICE}")
    return several, torch.cat([values for _, (values, _) in found]), [total[size] / size for size in wanted]


def _card(session: Session, prompts: Prompts, slot: str) -> VectorCard:
    facts = session.card(
        task=prompts.task,
        specification=prompts.specification,
        shots=prompts.shots,
        seed=prompts.seed,
        n=len(prompts),
        slot=slot,
        template=prompts.template.hash,
    )
    return VectorCard(**facts)
