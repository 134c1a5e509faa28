"""Prompts as sequences of segments whose roles are known from the start.

A prompt is never searched for its parts afterwards: every piece of text or image carries its role (input,
delimiter, answer, separator, ...) from where it was made, and the encoder carries it on to the tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, overload

from PIL import Image

from xmi.errors import PromptError
from xmi.faults import no_text
from xmi.prompt.pictures import thumbnail
from xmi.shown import Html, Shown

ImageLike = str | Path | Image.Image
"""What may stand for an image: a file, or a PIL image."""


@dataclass(frozen=True)
class Template(Shown):
    r"""How examples and queries are written; the default is that of Luo, Darrell and Bar (ICML 2025).

    Attributes:
        prefix: Before every input.
        delimiter: Between input and answer; its last token is where task vectors are read and patched.
        separator: After every example, and between an instruction and a query.

    Examples:
        >>> plain = xmi.Template(prefix="", delimiter=" ->", separator="\n")
        >>> xmi.task("country-capital", template=plain).icl("text", shots=1, n=1)[0].text
        'Sudan ->Khartoum\nRwanda ->'
    """

    prefix: str = "Q:"
    delimiter: str = "\nA:"
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        """Refuses what is not text.

        Raises:
            PromptError: A part of another type.
        """
        for name, value in (("prefix", self.prefix), ("delimiter", self.delimiter), ("separator", self.separator)):
            if not isinstance(value, str):
                raise PromptError(f"A template's {name}: {no_text(value)}")

    @property
    def hash(self) -> str:
        """A short stable hash, stored with every vector."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @staticmethod
    def chat(*, prefix: str = "", delimiter: str = "", separator: str = "\n\n", system: str = "") -> ChatTemplate:
        r"""The template of a task in a chat: each example is a message of the user and its answer the assistant's.

        The model's own chat template writes the frame. Slot `query.delimiter` (and `last`) is then the last token of
        the generation prompt, `example[k].delimiter` that before the example's answer.

        Args:
            prefix: Before every input, within the user's message.
            delimiter: After every input, within the user's message.
            separator: Between an instruction and a query, within the user's message.
            system: A system message; by default that of the model's template, if it has one.

        Examples:
            >>> talk = xmi.task("country-capital", template=xmi.Template.chat(system="Answer in one word."))
            >>> print(talk.icl("text", shots=1, n=1)[0].text)
            system: Answer in one word.
            user: Sudan
            assistant: Khartoum
            user: Rwanda
            assistant:
        """
        return ChatTemplate(prefix, delimiter, separator, system)


@dataclass(frozen=True)
class ChatTemplate(Template):
    """How examples and queries are written in a chat; made by `Template.chat`.

    Attributes:
        prefix: Before every input, within the user's message.
        delimiter: After every input, within the user's message.
        separator: Between an instruction and a query.
        system: The system message; empty for that of the model's template.
    """

    prefix: str = ""
    delimiter: str = ""
    separator: str = "\n\n"
    system: str = ""

    def __post_init__(self) -> None:
        """Refuses what is not text.

        Raises:
            PromptError: A part of another type.
        """
        super().__post_init__()
        if not isinstance(self.system, str):
            raise PromptError(f"A template's system: {no_text(self.system)}")


@dataclass(frozen=True)
class Segment(Shown):
    """A stretch of a prompt with one role.

    Attributes:
        role: `prefix`, `input`, `delimiter`, `answer`, `separator`, `instruction` or `text`; in a chat also
            `system`, and `frame`: what the model's template writes.
        text: The text; empty for an image.
        image: The image, or None.
        example: Number of the example it belongs to (0, 1, ...), None for the query and for what stands alone.
        query: Whether it belongs to the query.
    """

    role: str
    text: str = ""
    image: ImageLike | None = None
    example: int | None = None
    query: bool = False

    @property
    def name(self) -> str:
        """The segment's address: `example[0].input`, `query.delimiter`, `instruction`, ..."""
        if self.example is not None:
            return f"example[{self.example}].{self.role}"
        return f"query.{self.role}" if self.query else self.role


@dataclass(frozen=True)
class Prompt(Shown):
    """One prompt, not yet tied to any model.

    Attributes:
        segments: Its parts, in order.
        task: Name of the task, or empty.
        input: The query's input as words (also for an image), or empty.
        answer: The label, or None.
        alternatives: Further labels; a hit on one of them counts as well.
    """

    segments: tuple[Segment, ...]
    task: str = ""
    input: str = ""
    answer: str | None = None
    alternatives: tuple[str, ...] = ()

    def _facts(self) -> dict[str, Any]:
        told = {"text": self.text, "task": self.task, "input": self.input, "answer": self.answer}
        return {name: value for name, value in told.items() if value} | {"images": len(self.images)}

    def _rows(self) -> list[dict[str, Any]]:
        parts = (escape(s.text) if s.image is None else thumbnail(s.image) for s in self.shown)
        shown = Html(f'<div style="text-align:left;white-space:pre-wrap">{"".join(parts)}</div>')
        return [{"prompt": shown, "answer": " | ".join(self.answers)}]

    @property
    def answers(self) -> tuple[str, ...]:
        """All labels that count as right, the canonical one first; empty without a label."""
        return (self.answer, *self.alternatives) if self.answer else ()

    @property
    def text(self) -> str:
        """The prompt as text, with `<image>` in the place of every image (for people, not for models)."""
        return "".join(s.text if s.image is None else "<image>" for s in self.shown)

    @property
    def shown(self) -> tuple[Segment, ...]:
        """The segments as people are shown them."""
        return self.segments

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """The images, in order."""
        return tuple(s.image for s in self.segments if s.image is not None)

    @property
    def unit(self) -> str:
        """The independent unit for statistics: task and input."""
        return f"{self.task}/{self.input}"


@dataclass(frozen=True)
class ChatPrompt(Prompt):
    """A prompt that a model's chat template is to frame.

    Attributes:
        template: How it was written.
    """

    template: ChatTemplate = ChatTemplate()

    @property
    def shown(self) -> tuple[Segment, ...]:
        """The messages with who says them, for people: each model writes them in its own way."""
        told = [Segment("system", f"system: {self.template.system}\n")] if self.template.system else []
        begins = True
        for segment in self.segments:
            if segment.role == "answer":
                told += [Segment("frame", "\nassistant: "), segment, Segment("frame", "\n")]
                begins = True
            elif not (begins and (segment.role == "separator" or not (segment.text or segment.image))):
                told += [Segment("frame", "user: "), segment] if begins else [segment]
                begins = False
        return (*told, Segment("frame", "\nassistant:"))


@dataclass(frozen=True)
class FramedPrompt(Prompt):
    """A prompt as a chat template wrote it.

    Attributes:
        template: The texts before an input, between input and answer, and between examples; None where it is no task's.
        complete: Nothing is added to it when it is tokenised, not even BOS.
    """

    template: Template | None = None
    complete: bool = False


@dataclass(frozen=True)
class Prompts(Shown, Sequence[Prompt]):
    """A set of prompts made alike.

    Attributes:
        prompts: The prompts.
        specification: `text ICL`, `image ICL`, `instruction`, `no context`, ...
        task: Name of the task, or empty.
        shots: Examples per prompt.
        seed: Seed of the drawing.
        split: Split the queries come from.
        template: How they were written.
        task_words: Words that name the task.
        labels: All labels of the task, shown here or not; empty if unknown.
    """

    prompts: tuple[Prompt, ...]
    specification: str
    task: str = ""
    shots: int = 0
    seed: int = 0
    split: str = ""
    template: Template = Template()
    task_words: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (row for prompt in self.prompts for row in prompt._rows())

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> Prompts: ...
    def __getitem__(self, index: int | slice) -> Prompt | Prompts:
        """Returns one prompt, or a set of the same kind."""
        if isinstance(index, slice):
            return Prompts(self.prompts[index], **{k: v for k, v in self.__dict__.items() if k != "prompts"})
        return self.prompts[index]

    def __len__(self) -> int:
        """Returns the number of prompts."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        """Iterates over the prompts."""
        return iter(self.prompts)


def free_prompt(text: str, images: ImageLike | Sequence[ImageLike] = (), *, marker: str = "<image>") -> Prompts:
    r"""A prompt of the user's own, with a marker in the place of every image.

    Args:
        text: The text.
        images: One image, or as many as there are markers.
        marker: What stands for an image in the text. The model's own placeholder may be named (`<|image_pad|>`), in a
            text that a chat template made, say; what frames it there is not doubled.

    Returns:
        A set of one prompt, its last token being slot `last`.

    Raises:
        PromptError: The numbers of markers and images differ, the prompt is empty, or something is not what its name
            says.

    Examples:
        >>> prompt = xmi.free_prompt("Q: What is the capital of France?\nA:")
        >>> vlm.encode(prompt).inputs["input_ids"].shape  # prompt, token
        torch.Size([1, 14])
    """
    if not all(isinstance(given, str) for given in (text, marker)) or not marker:
        raise PromptError(
            f"A prompt's text and marker are strings, and a marker is not empty: {text!r:.80}, {marker!r}."
        )
    if isinstance(images, (str, Path, Image.Image)):
        images = [images]
    elif not isinstance(images, (list, tuple)):
        raise PromptError(f"images is one file or PIL image, or a list of them, not {type(images).__name__}.")
    parts = text.split(marker)
    if len(parts) - 1 != len(images):
        seen = dict.fromkeys(m for m in _PLACEHOLDER.findall(text) if m != marker and text.count(m) == len(images))
        looks = [m for m in seen if not re.search("start|begin|end", m)] or list(seen)
        raise PromptError(
            f"The prompt has {len(parts) - 1} place(s) for images ({marker!r}) but {len(images)} image(s) were given: "
            + " or ".join([*(f"pass marker={m!r}" for m in looks), f"put one {marker} into the text for each image."])
        )
    if not text:
        raise PromptError("The prompt is empty.")
    segments = [Segment("text", parts[0])] if parts[0] else []
    for image, part in zip(images, parts[1:], strict=True):
        segments.append(Segment("input", image=image))
        if part:
            segments.append(Segment("text", part))
    return Prompts((Prompt(tuple(segments)),), specification="free")


_PLACEHOLDER = re.compile(r"<[^<>\s]*im(?:age|g)[^<>\s]*>|\[[^\[\]\s]*IM(?:AGE|G)[^\[\]\s]*\]", re.IGNORECASE)
"""What looks as if it stood for an image."""


def template_of(prompts: Sequence[Prompt]) -> Template:
    """The template that prompts were written by, read off their segments; the default where they do not show it.

    Raises:
        PromptError: They were written by different ones.
    """
    told = {p.template if isinstance(p, (ChatPrompt, FramedPrompt)) else None for p in prompts}
    if len(told) == 1 and (template := next(iter(told))) is not None:
        return template
    if len(told) > 1:
        raise PromptError("Some of the prompts are in a chat frame, or in another one: give prompts of one at a time.")
    found = {}
    for role in ("prefix", "delimiter", "separator"):
        texts = sorted({s.text for p in prompts for s in p.segments if s.role == role and s.image is None})
        if len(texts) > 1:
            raise PromptError(
                f"The prompts were written by different templates, with {role} {' and '.join(map(repr, texts[:3]))}: "
                "give prompts of one template at a time."
            )
        if texts:
            found[role] = texts[0]
    return Template(**found)
