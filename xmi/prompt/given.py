"""What may be given as a prompt, recognised in one place for every verb."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from xmi.arguments import LEFT
from xmi.errors import PromptError
from xmi.prompt.batch import Batch
from xmi.prompt.prompt import Prompt, Prompts, free_prompt, template_of
from xmi.prompt.task import Task

Message = Mapping[str, Any]
"""A chat message: its `role`, and its `content` (text, or a list of parts of type `text` or `image`)."""

PromptLike = Annotated[
    str | Prompt | Batch | Mapping[str, Any] | Sequence[str | Prompt | Message | Sequence[Any]], LEFT
]
"""What every verb takes for prompts: text, a prompt, a set or list of either, chat messages or a list of such lists,
inputs that the model's own processor or tokenizer encoded, or a batch of `vlm.encode`."""

Render = Callable[[Sequence[Message]], Prompt]
"""Makes a prompt of chat messages."""

KINDS = (
    "A prompt is text, a prompt (xmi.free_prompt, task.icl(...)), a list of them, chat messages, what the model's own "
    "processor returns, or a batch of vlm.encode"
)


def is_encoded(given: object) -> bool:
    """Whether something holds encoded inputs: a mapping with `input_ids`, or a tensor or array of numbers."""
    return (isinstance(given, Mapping) and "input_ids" in given) or isinstance(given, (torch.Tensor, np.ndarray))


def flatten(given: Any, render: Render | None = None) -> tuple[Prompt, ...]:
    """All prompts in what was given; see `PromptLike`.

    Args:
        given: Anything but a batch and encoded inputs.
        render: Makes a prompt of chat messages, as one model's template does; without it they are refused.

    Raises:
        PromptError: Something that is not a prompt, or nothing at all.
    """
    if isinstance(given, Iterator):
        given = list(given)
    if isinstance(given, Mapping) and "role" in given:
        given = [given]  # a conversation of one message
    if isinstance(given, (list, tuple)) and not (given and all(_is_message(part) for part in given)):
        found = tuple(p for i, part in enumerate(given) for p in _prompts(part, f" (number {i} of the list)", render))
    else:
        found = _prompts(given, "", render)
    if not found:
        raise PromptError(f"There are no prompts: an empty {type(given).__name__} was given.")
    return found


def as_prompts(given: Any, render: Render | None = None) -> Prompts:
    """What was given as one set of prompts, with what can be said of all of them; see `flatten`.

    Raises:
        PromptError: As in `flatten`, or prompts that were written by different templates.
    """
    if isinstance(given, Prompts) and flatten(given):
        return given
    if isinstance(given, (list, tuple)) and given and all(isinstance(part, Prompts) for part in given):
        alike = [{k: v for k, v in part.__dict__.items() if k != "prompts"} for part in given]
        if all(facts == alike[0] for facts in alike):
            return Prompts(flatten(given), **alike[0])
    found = flatten(given, render)
    tasks = {prompt.task for prompt in found}
    return Prompts(found, "free", task=tasks.pop() if len(tasks) == 1 else "", template=template_of(found))


def _prompts(given: Any, where: str, render: Render | None) -> tuple[Prompt, ...]:
    """The prompts in one thing that was given, or in one member of a list."""
    if isinstance(given, Prompt):
        return (given,)
    if isinstance(given, str):
        return free_prompt(given).prompts
    if isinstance(given, Prompts) and all(isinstance(part, Prompt) for part in given.prompts):
        return given.prompts
    if isinstance(given, (list, tuple)) and given and all(_is_message(part) for part in given):
        if render is None:
            raise PromptError(f"Chat messages{where} are written by a model's own template: give them to a model.")
        return (render(given),)
    raise PromptError(f"{_found(given)}{where} is not a prompt. {KINDS}.{_hint(given)}")


def _is_message(thing: object) -> bool:
    return isinstance(thing, Mapping) and "role" in thing


def _found(given: Any) -> str:
    return "None" if given is None else f"{type(given).__name__} {reprlib.repr(given)}"


def _hint(given: Any) -> str:
    """What may have been meant."""
    if isinstance(given, Task):
        return " A task makes them: task.icl('text'), task.queries('image')."
    if isinstance(given, (Image.Image, Path)):
        return " An image stands in one: xmi.free_prompt('<image>What is this?', image)."
    if isinstance(given, bytes):
        return " Decode the bytes first: given.decode()."
    if is_encoded(given) or isinstance(given, Batch):
        return " Encoded inputs and batches are given on their own, not in a list."
    if isinstance(given, Mapping):
        return f" A mapping is a chat message with role and content, or has input_ids; this one has {list(given)[:5]}."
    if isinstance(given, (set, frozenset)):
        return " A set has no order: make a list of it."
    if isinstance(given, (int, list, tuple)):
        return " Token ids are given as a tensor, or as {'input_ids': ..., 'attention_mask': ...}."
    return ""
