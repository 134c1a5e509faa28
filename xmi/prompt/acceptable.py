"""What a model is given of a prompt: nothing that it adds itself, and nothing that it would misread."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import groupby

from xmi.errors import PromptError
from xmi.prompt.prompt import Prompt, Segment


def acceptable(prompt: Prompt, marks: Collection[str], placeholder: str | None) -> Prompt:
    """A prompt as a model can be given it: without what it puts around an image by itself.

    Args:
        prompt: The prompt.
        marks: The texts that stand for an image in the processor's input, with and without a frame around them.
        placeholder: The one that the processor is given, or None if it has none.

    Raises:
        PromptError: The prompt is empty, is not text that can be encoded, or means an image by text.
    """
    prompt = _unframed(prompt, min(marks, key=len, default=""), placeholder or "")
    if not any(segment.text or segment.image is not None for segment in prompt.segments):
        raise PromptError("The prompt is empty.")
    for image, run in groupby(prompt.segments, lambda s: s.image is not None):
        text = "" if image else "".join(segment.text for segment in run)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"The text {text[:80]!r} holds half of a character (a lone surrogate, {text[error.start]!r}) at "
                f"place {error.start}: remove it, or decode the text again."
            ) from error
        if mark := min((mark for mark in marks if mark in text), key=len, default=""):
            raise PromptError(
                f"The text {text[:80]!r} contains the image placeholder {mark!r} of this model: pass images as "
                f"images, not as text: xmi.free_prompt(text, [image], marker={mark!r})."
            )
    return prompt


def _unframed(prompt: Prompt, mark: str, placeholder: str) -> Prompt:
    """A prompt without the tokens around an image that come with the model's placeholder as well."""
    head, _, tail = placeholder.partition(mark) if mark else ("", "", "")
    if not head and not tail:
        return prompt
    segments = list(prompt.segments)
    for i in (i for i, segment in enumerate(segments) if segment.image is not None):
        before = segments[i - 1] if i else Segment("text")
        after = segments[i + 1] if i + 1 < len(segments) else Segment("text")
        ends = before.text.endswith(head), after.text.startswith(tail)
        if all(ends):
            if head:
                segments[i - 1] = replace(before, text=before.text.removesuffix(head))
            if tail:
                segments[i + 1] = replace(after, text=after.text.removeprefix(tail))
        elif (ends[0] and head) or (ends[1] and tail):
            raise PromptError(
                f"An image is framed on one side only, in {prompt.text[:120]!r}: write {head!r} before and "
                f"{tail!r} after it, or neither."
            )
    return replace(prompt, segments=tuple(segments))
