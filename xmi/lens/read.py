"""What a lens says of prompts: top tokens, and the three phases."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Int

from xmi.errors import PromptError, XmiWarning
from xmi.lens.base import Asked, Lens, depths, read_depths
from xmi.measure import LensReading, Phases
from xmi.measure.task_words import TaskWords
from xmi.model import Engine
from xmi.names import label_of
from xmi.prompt import Batch, Encoder, Prompts, check_room

Said = tuple[list[tuple[torch.Tensor, ...]], list[Int[torch.Tensor, " row"]]]
"""What `next_token_kernel` gave for each batch, and the answer's first token in each of its rows."""


def read_lens(engine: Engine, encoder: Encoder, batches: Iterable[Batch], lens: Lens, slot: str, k: int) -> LensReading:
    """Top tokens of every depth; see `VLM.lens`."""
    asked = (Asked(batch.inputs, batch.columns(slot), [[] for _ in batch.prompts]) for batch in batches)
    values, _ = read_depths(lens, engine, asked, k)
    rows = [row for value in values for row in value.ids.tolist()]
    tokens = tuple(tuple(tuple(encoder.decode(i) for i in depth) for depth in row) for row in rows)
    named = depths(engine.backbone.n_layers)
    return LensReading(named, tokens, np.concatenate([v.probabilities for v in values]), slot, lens.name)


def read_phases(
    engine: Engine,
    encoder: Encoder,
    prompts: Prompts,
    batches: Iterable[Batch],
    task_words: Sequence[str] | TaskWords,
    lens: Lens,
    slot: str,
    new: int = 0,
) -> tuple[Phases, Said]:
    """Input, task and answer tokens through the layers (see `VLM.phases`), and so many next tokens."""
    template = prompts.template
    task = _task_ids(engine, encoder, prompts, task_words)
    wanted: list[torch.Tensor] = []
    labels = _label_ids(encoder, prompts)
    shared: Counter[int] = Counter()

    def asked() -> Iterator[Asked]:
        for batch in batches:
            check_room(batch, new or 1, encoder.max_length)
            columns = batch.columns(slot)
            wanted.append(encoder.answer_ids(batch.prompts, template))
            sets = []
            for row, answer in enumerate(wanted[-1].tolist()):
                own = int(batch.inputs["input_ids"][row, columns[row]])
                begun = encoder.word_ids((batch.prompts[row].input,), template.prefix)
                given = {own, *begun}
                both = ({*task, *begun} & {answer}) | task.intersection(begun)
                shared.update(i for i in both if not encoder.is_whole(i))
                right = {labels[label] for label in batch.prompts[row].answers if label in labels} | {answer}
                others = set(labels.values()) - right - task - given
                sets.append([sorted(given - task - {answer}), sorted(task - {answer}), [answer], sorted(others)])
            yield Asked(batch.inputs, columns, sets, wanted[-1] if new else None)

    values, said = read_depths(lens, engine, asked(), 1, new)
    _announce_shared(encoder, shared, len(prompts))
    top = np.concatenate([v.ids[..., 0] for v in values])
    mass, rank = (np.concatenate([getattr(v, name) for v in values]) for name in ("mass", "rank"))
    phases = Phases(
        label_of(prompts.task, prompts.specification),
        depths(engine.backbone.n_layers),
        mass[..., :3],
        rank[..., :3],
        tuple(_shares(encoder, top[:, i]) for i in range(top.shape[1])),
        units=tuple(p.unit if p.input else str(i) for i, p in enumerate(prompts)),
        tasks=tuple(p.task for p in prompts),
        task_words=tuple(encoder.decode(i) for i in sorted(task)),
        lens=lens.name,
        model=engine.checkpoint.name,
        slot=slot,
        other_labels=mass[..., 3],
        other_labels_rank=rank[..., 3],
        label_words=tuple(encoder.decode(i) for i in sorted(task & set(labels.values()))),
    )
    return phases, (said, wanted)


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
            stacklevel=4,
        )


def _task_ids(engine: Engine, encoder: Encoder, prompts: Prompts, task_words: Sequence[str] | TaskWords) -> set[int]:
    if not isinstance(task_words, TaskWords):
        if task := set(encoder.word_ids(task_words or prompts.task_words, prompts.template.delimiter)):
            return task
        raise PromptError(f"No task words for {prompts.task or 'the prompts'}: pass task_words=['capital'] or so.")
    if task_words.revision != engine.checkpoint.revision:
        raise PromptError(
            f"The task words were found in a model of revision {task_words.revision}, this is "
            f"{engine.checkpoint.name}, revision {engine.checkpoint.revision}: find them in this one, or pass words."
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
