"""Task words from the lens: what several tasks' prompts decode to, and what each task's alone do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xmi.errors import PromptError
from xmi.lens.base import Asked, Lens, depths, read_depths
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
    taken: dict[str, set[str]] = {}
    everything = (batch for encoded in batches for batch in encoded)
    asked = (Asked(batch.inputs, batch.columns(slot), [[] for _ in batch.prompts]) for batch in everything)
    values, _ = read_depths(lens, engine, asked, k)
    for several in prompts:
        tasks += [several.task] * len(several)
        words = taken.setdefault(several.task, set(exclude))
        for prompt in several:
            words |= {s.text for s in prompt.segments if s.role in _OWN} | {prompt.input, prompt.answer or ""}
    every = np.concatenate([v.ids for v in values])
    special = set(encoder.tokenizer.all_special_ids) | set(encoder.tokenizer.added_tokens_decoder)
    texts = {
        int(i): encoder.decode(int(i)) for i in np.unique(every) if int(i) not in special and encoder.is_whole(int(i))
    }
    names = depths(engine.backbone.n_layers)
    found = choose_task_words(
        tasks, every, np.concatenate([v.probabilities for v in values]), texts, taken, names, **rule
    )
    return replace(found, revision=engine.checkpoint.revision, lens=lens.name, slot=slot)
