"""What a lens says of prompts: top tokens, and the three phases."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Int

from xmi.answer import how_many, score_answers
from xmi.arguments import outside
from xmi.errors import PromptError, XmiWarning
from xmi.lens.base import Asked, Lens, LensValues, depths, read_depths
from xmi.lens.logit import LogitLens
from xmi.measure import Answers, LensReading, Phases
from xmi.measure.task_words import TaskWords
from xmi.names import label_of
from xmi.prompt import Batch, Encoder, PromptLike, Prompts, Template, check_room
from xmi.proof import keeps
from xmi.session import Session

Said = Sequence[tuple[torch.Tensor, ...]]
"""What `next_token_kernel` gave for each batch."""

Wanted = Sequence[Int[torch.Tensor, " _"]]  # a batch each, of its own number of rows
"""The answer's first token in each row of each batch."""


def lens(
    session: Session, prompts: PromptLike, *, slot: str = "last", k: int = 5, lens: Lens | None = None
) -> LensReading:
    """Top tokens of every depth at a slot, by the logit lens or another one.

    Args:
        prompts: The prompts.
        slot: Where to read.
        k: Tokens per depth.
        lens: The lens, by default the logit lens.

    Returns:
        Tokens and probabilities [prompt, depth, k]; depth `embed` is the input of block 0.

    Raises:
        ModelError: The lens was trained on another model.

    Examples:
        >>> reading = vlm.lens(task.icl("text", n=2))
        >>> reading.probabilities.shape  # prompt, depth, k
        (2, 9, 5)
        >>> reading.tokens[0][-1][0]  # the first prompt, the last depth
        'Bridgetown'
    """
    encoder, chosen = session.encoder, lens or LogitLens()
    with session.prepared(prompts, "reading the lens") as (_, batches):
        asked = (Asked(batch.inputs, batch.columns(slot), [[] for _ in batch.prompts]) for batch in batches)
        values = [read for read, *_ in read_depths(session, chosen, asked, k)]
    rows = [row for value in values for row in value.ids.tolist()]
    tokens = tuple(tuple(tuple(encoder.decode(i) for i in depth) for depth in row) for row in rows)
    named = depths(session.backbone.n_layers)
    return LensReading(named, tokens, np.concatenate([v.probabilities for v in values]), slot, chosen.name)


def phases(
    session: Session,
    prompts: PromptLike,
    *,
    task_words: Sequence[str] | TaskWords = (),
    slot: str = "last",
    lens: Lens | None = None,
) -> Phases:
    """Follows input, task and answer tokens through the layers at a slot.

    The input set holds the slot's own token and the beginning of the query's input; the task set the beginnings
    of the task words; the answer set the label's first token. A token in several sets counts for the later phase.

    Args:
        prompts: Prompts with labels, usually ICL prompts.
        task_words: Words that name the task, or those that `find_task_words` found; by default the task's own.
        slot: Where to read.
        lens: The lens, by default the logit lens.

    Returns:
        Probability mass and rank of the three sets per prompt and depth; its `boundaries()` say where one phase
        gives way to the next.

    Raises:
        PromptError: No task words, or none has a token of its own, or none were found for this task and model; or
            a prompt without label.
        ModelError: The lens was trained on another model.

    Source: Luo, Darrell and Bar, ICML 2025, section 4.

    Examples:
        >>> found = vlm.phases(task.icl("text", n=5))
        >>> found.probability.shape  # prompt, depth, phase
        (5, 9, 3)
        >>> found.to_frame().columns.tolist()[:5]
        ['label', 'depth', 'phase', 'relative', 'probability']
    """
    return _phases(session, prompts, task_words, slot, lens)[1]


def phases_and_answers(
    session: Session,
    prompts: PromptLike,
    *,
    task_words: Sequence[str] | TaskWords = (),
    slot: str = "last",
    lens: Lens | None = None,
    max_new_tokens: int | None = None,
) -> tuple[Phases, Answers]:
    """What `phases` and `answers` return of the same prompts, read in the same forwards.

    Examples:
        >>> phases, answers = vlm.phases_and_answers(task.icl("text", n=5))
        >>> phases.probability.shape, answers.accuracy().mean
        ((5, 9, 3), 1.0)
    """
    new = how_many(max_new_tokens)
    several, measured, said, wanted = _phases(session, prompts, task_words, slot, lens, new)
    return measured, score_answers(session.encoder, several, said, wanted, max_new_tokens)


def _phases(
    session: Session,
    prompts: PromptLike,
    task_words: Sequence[str] | TaskWords,
    slot: str,
    lens: Lens | None,
    new: int = 0,
) -> tuple[Prompts, Phases, Said, Wanted]:
    """Input, task and answer tokens through the layers (see `phases`), and so many next tokens."""
    words = task_words if isinstance(task_words, TaskWords) else tuple(task_words)
    chosen = lens or LogitLens()
    with session.prepared(prompts, "decoding phases") as (several, batches):
        task, labels = _task_ids(session, several, words), _label_ids(session.encoder, several)
        shared: Counter[int] = Counter()

        def asked() -> Iterator[Asked]:
            for batch in batches:
                check_room(batch, new or 1, session.encoder.max_length)
                columns = batch.columns(slot)
                wanted = session.encoder.answer_ids(batch.prompts, several.template)
                sets = _sets(session.encoder, batch, columns, wanted, task, labels, several.template, shared)
                yield Asked(batch.inputs, columns, sets, wanted if new else None, keeps(session, batch, new))

        values, said, given = zip(*read_depths(session, chosen, asked(), 1, new), strict=True)
    _announce_shared(session.encoder, shared, len(several))
    return (
        several,
        _measured(session, several, values, task, labels, chosen.name, slot),
        said,
        [ids for ids in given if ids is not None],
    )


def _sets(
    encoder: Encoder,
    batch: Batch,
    columns: Int[torch.Tensor, " row"],
    wanted: Int[torch.Tensor, " row"],
    task: set[int],
    labels: Mapping[str, int],
    template: Template,
    shared: Counter[int],
) -> list[list[list[int]]]:
    """Tokens of the input, the task, the answer and the other labels, for each row; counts what is in several."""
    sets = []
    for row, answer in enumerate(wanted.tolist()):
        own = int(batch.inputs["input_ids"][row, columns[row]])
        begun = encoder.word_ids((batch.prompts[row].input,), template.prefix)
        given = {own, *begun}
        both = ({*task, *begun} & {answer}) | task.intersection(begun)
        shared.update(i for i in both if not encoder.is_whole(i))
        right = {labels[label] for label in batch.prompts[row].answers if label in labels} | {answer}
        others = set(labels.values()) - right - task - given
        sets.append([sorted(given - task - {answer}), sorted(task - {answer}), [answer], sorted(others)])
    return sets


def _measured(
    session: Session,
    prompts: Prompts,
    values: Sequence[LensValues],
    task: set[int],
    labels: Mapping[str, int],
    lens: str,
    slot: str,
) -> Phases:
    decode = session.encoder.decode
    top = np.concatenate([v.ids[..., 0] for v in values])
    mass, rank = (np.concatenate([getattr(v, name) for v in values]) for name in ("mass", "rank"))
    return Phases(
        label_of(prompts.task, prompts.specification),
        depths(session.backbone.n_layers),
        mass[..., :3],
        rank[..., :3],
        tuple(_shares(session.encoder, top[:, i]) for i in range(top.shape[1])),
        units=tuple(p.unit if p.input else str(i) for i, p in enumerate(prompts)),
        tasks=tuple(p.task for p in prompts),
        task_words=tuple(decode(i) for i in sorted(task)),
        lens=lens,
        model=session.name,
        slot=slot,
        other_labels=mass[..., 3],
        other_labels_rank=rank[..., 3],
        label_words=tuple(decode(i) for i in sorted(task & set(labels.values()))),
    )


def _label_ids(encoder: Encoder, prompts: Prompts) -> dict[str, int]:
    """The token with which each label of the task begins after the delimiter, as far as it has one of its own."""
    shown = (s.text for p in prompts for s in p.segments if s.role == "answer")
    labels = prompts.labels or tuple(dict.fromkeys((*(a for p in prompts for a in p.answers), *shown)))
    found = {}
    for label in labels:
        with suppress(PromptError):
            found[label] = encoder.first_token(prompts.template.delimiter, label)
    return found


def _announce_shared(encoder: Encoder, shared: Counter[int], prompts: int) -> None:
    """Warns of bytes with which words of several phases begin: their mass counts for the later phase only."""
    if shared:
        token, count = shared.most_common(1)[0]
        warnings.warn(
            f"Words of several phases begin with the same part of a character, {encoder.decode(token)!r} in {count} of "
            f"{prompts} prompts. Its mass counts for the later phase, so the earlier one seems to be missing.",
            XmiWarning,
            stacklevel=outside(),
        )


def _task_ids(session: Session, prompts: Prompts, task_words: Sequence[str] | TaskWords) -> set[int]:
    if not isinstance(task_words, TaskWords):
        if task := set(session.encoder.word_ids(task_words or prompts.task_words, prompts.template.delimiter)):
            return task
        raise PromptError(f"No task words for {prompts.task or 'the prompts'}: pass task_words=['capital'] or so.")
    if task_words.revision != session.revision:
        raise PromptError(
            f"The task words were found in a model of revision {task_words.revision}, this is "
            f"{session.name}, revision {session.revision}: find them in this one, or pass words."
        )
    if prompts.task not in task_words.tasks:
        raise PromptError(
            f"No task words were found for {prompts.task or 'the prompts'} (there are some for "
            f"{', '.join(dict.fromkeys(task_words.tasks)) or 'no task'}): pass words, or lower the thresholds."
        )
    return set(task_words.ids_of(prompts.task))


def _shares(encoder: Encoder, ids: Int[np.ndarray, " prompt"]) -> tuple[tuple[str, float], ...]:
    """The most frequent top tokens of a depth, with their share."""
    counted = Counter(encoder.decode(int(i)) for i in ids).most_common(5)
    return tuple((token, count / len(ids)) for token, count in counted)
