"""What a lens says of prompts: top tokens, and the three phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from xmi.errors import PromptError
from xmi.lens.logit import depths, logit_lens
from xmi.measure import LensReading, Phases
from xmi.model import Engine
from xmi.prompt import Batch, Encoder, Prompts


def read_lens(engine: Engine, encoder: Encoder, batches: Iterable[Batch], slot: str, k: int) -> LensReading:
    """Top tokens of every depth; see `VLM.lens`."""
    tokens: list[tuple[tuple[str, ...], ...]] = []
    probabilities = []
    for batch in batches:
        values = logit_lens(engine, batch.inputs, batch.columns(slot), [[] for _ in batch.prompts], k)
        tokens += [tuple(tuple(encoder.decode(i) for i in depth) for depth in row) for row in values.ids.tolist()]
        probabilities.append(values.probabilities)
    return LensReading(depths(engine.backbone.n_layers), tuple(tokens), np.concatenate(probabilities), slot)


def read_phases(
    engine: Engine,
    encoder: Encoder,
    prompts: Prompts,
    batches: Iterable[Batch],
    task_words: Sequence[str],
    slot: str,
) -> Phases:
    """Input, task and answer tokens through the layers; see `VLM.phases`."""
    template = prompts.template
    task = set(encoder.word_ids(task_words or prompts.task_words, template.delimiter))
    if not task:
        raise PromptError(f"No task words for {prompts.task or 'the prompts'}: pass task_words=['capital'] or so.")
    mass, rank, tops = [], [], []
    for batch in batches:
        columns = batch.columns(slot)
        sets = []
        for row, answer in enumerate(encoder.answer_ids(batch.prompts, template).tolist()):
            own = int(batch.inputs["input_ids"][row, columns[row]])
            given = {own, *encoder.word_ids((batch.prompts[row].input,), template.prefix)}
            sets.append([sorted(given - task - {answer}), sorted(task - {answer}), [answer]])
        values = logit_lens(engine, batch.inputs, columns, sets, 1)
        mass.append(values.mass)
        rank.append(values.rank)
        tops.append(values.ids[..., 0])
    label = f"{prompts.task} · {prompts.specification}" if prompts.task else prompts.specification
    top = np.concatenate(tops)
    shares = tuple(_shares(encoder, top[:, i]) for i in range(top.shape[1]))
    return Phases(label, depths(engine.backbone.n_layers), np.concatenate(mass), np.concatenate(rank), shares)


def _shares(encoder: Encoder, ids: Int[np.ndarray, " prompt"]) -> tuple[tuple[str, float], ...]:
    """The most frequent top tokens of a depth, with their share."""
    counted = Counter(encoder.decode(int(i)) for i in ids).most_common(5)
    return tuple((token, count / len(ids)) for token, count in counted)
