"""Chat messages as a prompt, written by a model's own chat template with its images in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.errors import PromptError
from xmi.prompt.prompt import FramedPrompt, ImageLike, Prompt, Segment

Part = tuple[str, ImageLike | None]
"""A text, or an image."""


def chat_prompt(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, processor: Any | None, placeholder: str | None
) -> Prompt:
    """Writes messages as the model was taught to read them, ready for its answer.

    Args:
        messages: The conversation.
        tokenizer: The model's tokenizer.
        processor: Its processor, whose template is preferred.
        placeholder: What stands for an image in the processor's text.

    Raises:
        PromptError: A message that is not one, a model without a chat template, or a template that refuses the
            messages or loses a part of them.
    """
    said = [(message, tuple(_parts(message, number))) for number, message in enumerate(messages)]
    images = [image for _, parts in said for _, image in parts if image is not None]
    tool = tool_of(tokenizer, processor, images=bool(images))
    problems: list[str] = []
    for form in FORMS if tool is processor else FORMS[::-1]:
        try:
            text = tool.apply_chat_template(
                [{**message, "content": form(parts)} for message, parts in said],
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # a template may refuse what it does not know: roles, their order, forms of content
            problems.append(str(error) or type(error).__name__)
            continue
        if problem := _lost(text, [part for _, parts in said for part in parts], placeholder):
            problems.append(problem)
            continue
        texts = text.split(placeholder) if images and placeholder else [text]
        segments = [Segment("text", texts[0])]
        for image, after in zip(images, texts[1:], strict=True):
            segments += [Segment("input", image=image), Segment("text", after)]
        held = tuple(s for s in segments if s.text or s.image is not None)
        return FramedPrompt(held, complete=processor is None)
    raise PromptError(f"The chat template of {type(tool).__name__} cannot write the messages: {'; '.join(problems)}.")


def tool_of(tokenizer: Any, processor: Any | None, *, images: bool) -> Any:
    """The processor if it has a chat template, else the tokenizer.

    Raises:
        PromptError: Neither has one, or one that does not handle images where there are some.
    """
    tool = next((tool for tool in (processor, tokenizer) if getattr(tool, "chat_template", None)), None)
    if tool is None:
        raise PromptError(
            "The model's tokenizer and processor have no chat template, so they cannot write chat messages: give text, "
            "with xmi.free_prompt(text, images) for images, and tasks with a plain Template."
        )
    if images and tool is not processor:
        raise PromptError(
            "The model's chat template is its tokenizer's and does not handle images: write the text, and put the "
            "images into it with xmi.free_prompt(text, images)."
        )
    return tool


def _lost(text: str, parts: Sequence[Part], placeholder: str | None) -> str:
    """What of the messages a template left out or wrote otherwise; empty if nothing."""
    images = sum(image is not None for _, image in parts)
    if images and not placeholder:
        return "its placeholder for images is not known"
    if placeholder and text.count(placeholder) != images:
        return f"there are {images} image(s) and {text.count(placeholder)} place(s) for them ({placeholder!r})"
    at = 0
    for said in (said.strip() for said, image in parts if image is None):
        at = text.find(said, at)
        if at < 0:
            return f"it leaves out {said[:60]!r}"
        at += len(said)
    if "'type': 'text'" in text and not any("'type': 'text'" in said for said, _ in parts):
        return "it writes a list of parts as code"
    return ""


def _as_parts(parts: Sequence[Part]) -> list[dict[str, str]]:
    return [{"type": "text", "text": said} if image is None else {"type": "image"} for said, image in parts]


def _as_text(parts: Sequence[Part]) -> str:
    if len(parts) != 1 or parts[0][1] is not None:
        raise ValueError("it takes one text for each message")
    return parts[0][0]


FORMS: tuple[Callable[[Sequence[Part]], Any], ...] = (_as_parts, _as_text)
"""Forms of a message's content: a list of parts, which processors read, and one text, which most tokenizers do."""

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who speaks in a conversation."""


def _parts(message: Mapping[str, Any], number: int) -> Iterator[Part]:
    """The texts and images of a message."""
    content = message.get("content")
    where = f"message {number} ({message.get('role')!r})"
    if not isinstance(message.get("role"), str):
        raise PromptError(f"The role of message {number} is {message.get('role')!r}, not a word such as 'user'.")
    if message["role"] not in ROLES:
        raise PromptError(f"The role of message {number} is {message['role']!r:.60}; roles are {', '.join(ROLES)}.")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)) or not content:
        raise PromptError(f"The content of {where} is {content!r:.80}: give text, or a list of parts.")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield part["text"], None
        elif kind == "image" and (
            found := [part[key] for key in ("image", "path", "url") if part.get(key) is not None]
        ):
            if not isinstance(found[0], (str, Path, Image.Image)) or "://" in str(found[0]):
                raise PromptError(f"The image of {where} must be a file or a PIL image, not {found[0]!r:.80}.")
            yield "", found[0]
        else:
            raise PromptError(
                f"A part of {where} is {part!r:.80}: xmi reads {{'type': 'text', 'text': ...}} and "
                "{'type': 'image', 'image': file or PIL image}."
            )
