"""Task words from the lens: what several tasks' prompts decode to, and what each task's alone do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

import numpy as np

from xmi.errors import PromptError
from xmi.lens.base import Asked, Lens, depths, read_depths
from xmi.lens.logit import LogitLens
from xmi.measure.task_words import TaskWords, choose_task_words
from xmi.prompt import PromptLike, Prompts
from xmi.session import Session

_OWN = ("input", "answer", "prefix", "delimiter", "separator")


def find_task_words(
    session: Session,
    prompts: Sequence[PromptLike],
    *,
    slot: str = "last",
    lens: Lens | None = None,
    exclude: Sequence[str] = (),
    k: int = 5,
    share: float = 0.5,
    mass: float = 0.02,
    times: float = 2.0,
    limit: int = 5,
) -> TaskWords:
    """Finds words that sum up each task: what its prompts decode to at some depth, and other tasks' do not.

    Words of a task's own inputs, answers and template are never taken for it. Phases should be measured on other
    prompts (another split) than those the words were found on; answers that only these have go into `exclude`.

    Args:
        prompts: One or more sets of prompts per task, of at least two tasks.
        slot: Where to read.
        lens: The lens, by default the logit lens.
        exclude: Words never taken for any task: the labels of all items, say.
        k: How many top tokens of a prompt and depth are looked at; the mass of the others counts as 0.
        share: Least share of the task's prompts that have the word among these.
        mass: Least mean probability.
        times: How many times the mean probability in any other task.
        limit: Most words per task.

    Returns:
        The words with the numbers they were chosen by; a task may have none.

    Raises:
        PromptError: Fewer than two tasks.
        ModelError: The lens was trained on another model.

    Examples:
        >>> prompts = [xmi.task(name).icl("text", n=5) for name in ("country-capital", "food-color")]
        >>> words = vlm.find_task_words(prompts)
        >>> words.to_frame().columns.tolist()
        ['task', 'token', 'id', 'depth', 'mass', 'elsewhere', 'share']
    """
    encoder, chosen = session.encoder, lens or LogitLens()
    sets = prompts if isinstance(prompts, (list, tuple)) and prompts else [cast(PromptLike, prompts)]
    with ExitStack() as stack:
        pairs = [stack.enter_context(session.prepared(some, "looking for task words")) for some in sets]
        if len({several.task for several, _ in pairs if several.task}) < 2:
            raise PromptError("Task words stand out against other tasks: give prompts of at least two named tasks.")
        everything = (batch for _, batches in pairs for batch in batches)
        asked = (Asked(batch.inputs, batch.columns(slot), [[] for _ in batch.prompts]) for batch in everything)
        values = [read for read, *_ in read_depths(session, chosen, asked, k)]
    every = np.concatenate([v.ids for v in values])
    special = set(encoder.tokenizer.all_special_ids) | set(encoder.tokenizer.added_tokens_decoder)
    texts = {
        int(i): encoder.decode(int(i)) for i in np.unique(every) if int(i) not in special and encoder.is_whole(int(i))
    }
    found = choose_task_words(
        [several.task for several, _ in pairs for _ in several],
        every,
        np.concatenate([v.probabilities for v in values]),
        texts,
        _taken([several for several, _ in pairs], exclude),
        depths(session.backbone.n_layers),
        share=share,
        mass=mass,
        times=times,
        limit=limit,
    )
    return replace(found, revision=session.revision, lens=chosen.name, slot=slot)


def _taken(sets: Sequence[Prompts], exclude: Sequence[str]) -> dict[str, set[str]]:
    """Words that are never taken for each task."""
    taken: dict[str, set[str]] = {}
    for several in sets:
        words = taken.setdefault(several.task, set(exclude))
        for prompt in several:
            words |= {s.text for s in prompt.segments if s.role in _OWN} | {prompt.input, prompt.answer or ""}
    return taken
