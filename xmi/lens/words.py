"""Task words from the lens: what several tasks' prompts decode to, and what each task's alone do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xmi.errors import PromptError
from xmi.lens.base import Lens, depths, read_depths
from xmi.measure.task_words import TaskWords, choose_task_words
from xmi.model import Engine
from xmi.prompt import Batch, Encoder, Prompts

_OWN = ("input", "answer", "prefix", "delimiter", "separator")


def find_task_words(
    engine: Engine,
    encoder: Encoder,
    prompts: Sequence[Prompts],
    batches: Iterable[Iterable[Batch]],
    lens: Lens,
    slot: str,
    exclude: Sequence[str],
    k: int,
    **rule: Any,
) -> TaskWords:
    """Reads every set of prompts and chooses; see `VLM.find_task_words`."""
    if len({p.task for p in prompts if p.task}) < 2:
        raise PromptError("Task words stand out against other tasks: give prompts of at least two named tasks.")
    tasks: list[str] = []
    ids, probabilities = [], []
    taken: dict[str, set[str]] = {}
    for several, encoded in zip(prompts, batches, strict=True):
        for batch in encoded:
            values = read_depths(lens, engine, batch.inputs, batch.columns(slot), [[] for _ in batch.prompts], k)
            ids.append(values.ids)
            probabilities.append(values.probabilities)
        tasks += [several.task] * len(several)
        words = taken.setdefault(several.task, set(exclude))
        for prompt in several:
            words |= {s.text for s in prompt.segments if s.role in _OWN} | {prompt.input, prompt.answer or ""}
    every = np.concatenate(ids)
    special = set(encoder.tokenizer.all_special_ids) | set(encoder.tokenizer.added_tokens_decoder)
    texts = {int(i): encoder.decode(int(i)) for i in np.unique(every) if int(i) not in special}
    names = depths(engine.backbone.n_layers)
    found = choose_task_words(tasks, every, np.concatenate(probabilities), texts, taken, names, **rule)
    return replace(found, revision=engine.checkpoint.revision, lens=lens.name, slot=slot)
