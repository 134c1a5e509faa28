"""Whether a model has room for what is asked of it: the context length counts new tokens, too."""

from __future__ import annotations

from operator import index
from typing import Any

from xmi.errors import PromptError
from xmi.prompt.batch import Batch


def new_tokens(asked: Any) -> int:
    """How many new tokens are asked for.

    Raises:
        PromptError: Not a whole number of at least one.
    """
    try:
        found = 0 if isinstance(asked, bool) else index(asked)
    except TypeError:
        found = 0
    if found < 1:
        raise PromptError(f"max_new_tokens={asked!r}: give a whole number of at least 1.")
    return found


def check_room(batch: Batch, new: int, limit: int | None) -> None:
    """Refuses prompts that fit a model, but not with so many new tokens.

    Args:
        batch: Encoded prompts.
        new: How many new tokens are read; the last one of them is never given to the model.
        limit: The longest sequence that the model takes, or None if it says none.

    Raises:
        PromptError: A prompt and its new tokens are longer.
    """
    lengths = batch.inputs["attention_mask"].sum(1)
    row = int(lengths.argmax())
    if limit is not None and int(lengths[row]) + new - 1 > limit:
        fits = limit - int(lengths[row]) + 1
        raise PromptError(
            f"Prompt {row} has {int(lengths[row])} tokens and {new} new ones are asked for, but the model takes "
            f"{limit} in all: ask for {fits} at most, or use a shorter prompt. It begins "
            f"{batch.prompts[row].text[:80]!r}."
        )
