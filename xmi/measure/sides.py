"""What a method may be compared with: one patch of a sweep, or always giving the most frequent label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xmi.errors import MeasureError, NotMeasuredError
from xmi.measure.answers import Answers, Transfer, only_labelled
from xmi.measure.scoring import paper_hit


def answers_at(transfer: Transfer, source: str, layer: int) -> Answers:
    """The answers under one patch: one source of a sweep at one layer.

    Args:
        transfer: The sweep.
        source: Which vector.
        layer: Which layer; `best_layer_of` of a sweep over validation items chooses it.

    Returns:
        The answers, as if to prompts; all of `Answers`' measures apply.

    Raises:
        NotMeasuredError: Unknown source or layer.

    Examples:
        >>> vector = vlm.task_vector(task.icl("text"))
        >>> sweep = vlm.transfer({"text": vector}, to=task.queries("text"))
        >>> measure.answers_at(sweep, "text", layer=sweep.best_layer).accuracy().mean
        1.0
    """
    s = index_of(transfer, source)
    if layer not in transfer.layers:
        raise NotMeasuredError(f"Layer {layer} was not swept; the layers are {list(transfer.layers)}.")
    at = transfer.layers.index(layer)
    # What belongs to the queries (prompts, tasks, units, labels) is the same as without a patch.
    return replace(
        transfer.clean,
        predicted=transfer.predicted[s][at],
        log_probability=transfer.log_probability[s, at],
        rank=transfer.rank[s, at],
        paper=transfer.paper[s, at],
        strict=transfer.strict[s, at],
        continuations=None if transfer.continuations is None else transfer.continuations[s][at],
    )


def majority_answers(asked: Answers | Transfer, training: Mapping[str, Sequence[str]]) -> Answers:
    """The baseline that always gives a task's most frequent training label (the paper's `Random`).

    Args:
        asked: Which items are asked.
        training: Labels of the training items of each task, repeats included.

    Returns:
        Its answers to the same prompts, under all scores: the label most frequent in training (the first of equally
        frequent ones). Log-probability and rank are those of the right label (the first, if there are several) by its
        share among the training labels: `-inf` and the number of distinct labels if it never occurs there.

    Raises:
        MeasureError: A task has no training labels.

    Examples:
        >>> asked = vlm.answers(task.queries("text"))
        >>> training = {task.name: [item.output for item in task.split("train")]}
        >>> measure.majority_answers(asked, training).accuracy().mean
        0.0
    """
    prompts = only_labelled(asked.clean if isinstance(asked, Transfer) else asked)
    lacking = [t for t in dict.fromkeys(prompts.tasks) if not training.get(t)]
    if lacking:
        raise MeasureError(f"No training labels of {lacking}; give those of every task that was asked.")
    counts = {task: dict(Counter(training[task]).most_common()) for task in dict.fromkeys(prompts.tasks)}
    said = tuple(next(iter(counts[task])) for task in prompts.tasks)
    right = list(zip(prompts.tasks, prompts.answers, strict=True))
    shares = np.array([counts[t].get(a, 0) / len(training[t]) for t, a in right])
    ranks = [list(counts[t]).index(a) if a in counts[t] else len(counts[t]) for t, a in right]
    given = list(zip(said, prompts.accepted, strict=True))
    with np.errstate(divide="ignore"):
        logs = np.log(shares)
    return replace(
        prompts,
        predicted=said,
        continuations=said,
        log_probability=logs,
        rank=np.array(ranks),
        paper=np.array([any(paper_hit(s, a) for a in labels) for s, labels in given]),
        strict=np.array([s in labels for s, labels in given]),
    )


def index_of(transfer: Transfer, source: str | None) -> int:
    """The place of a source among those of a sweep.

    Raises:
        NotMeasuredError: Unknown source.
    """
    if source not in transfer.sources:
        raise NotMeasuredError(f"No source {source!r}; the sources are {list(transfer.sources)}.")
    return transfer.sources.index(source)
