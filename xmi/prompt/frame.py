"""A task's prompts in a chat frame: each example a turn of the user and one of the assistant, as a model was taught.

The model's own chat template writes the frame. It is written twice: with a mark in the place of each part, which shows
where that is, and with the parts themselves, which must give the same text. So no role is guessed from words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from xmi.errors import PromptError
from xmi.prompt.chat import FORMS, Part, tool_of
from xmi.prompt.prompt import ChatPrompt, ChatTemplate, FramedPrompt, Segment, Template

DAY = date(2024, 7, 26)
"""What templates that write the day are told: a prompt is the same on every day."""

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclass(frozen=True)
class Piece:
    """A text or an image of a message.

    Attributes:
        segments: What it is made of.
    """

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """Its text; empty for an image."""
        return "".join(segment.text for segment in self.segments)

    @property
    def image(self) -> bool:
        """Whether it is an image."""
        return self.segments[0].image is not None


@dataclass(frozen=True)
class Turn:
    """A message of a framed prompt.

    Attributes:
        role: Who says it.
        pieces: Its parts.
        example: Number of the example it belongs to, or None.
        query: Whether it holds the query.
    """

    role: str
    pieces: tuple[Piece, ...]
    example: int | None = None
    query: bool = False


class Frame:
    """Writes prompts by one model's chat template."""

    def __init__(self, tokenizer: Any, processor: Any | None, placeholder: str | None) -> None:
        """Takes the model's tokenizer, its processor, and what stands for an image in the processor's text."""
        self.tokenizer, self.processor, self.placeholder = tokenizer, processor, placeholder
        self._written: dict[ChatTemplate, Template] = {}

    def written(self, template: Template) -> Template:
        """A template as the frame writes it: its delimiter is what stands between a query's input and the answer.

        Raises:
            PromptError: The model has no chat template, or one that cannot frame a task.
        """
        if not isinstance(template, ChatTemplate):
            return template
        if template not in self._written:
            before, after = Segment("prefix", template.prefix), Segment("delimiter", template.delimiter)
            words = (Segment("input", "one"), Segment("answer", "two"), Segment("input", "three"))
            made = (before, words[0], after, words[1], before, words[2], after)
            texts = self._segments(ChatPrompt(made, template=template))
            ends = [next(i for i, segment in enumerate(texts) if segment is word) for word in words]
            parts = ("".join(s.text for s in texts[a + 1 : b]) for a, b in zip([-1, *ends], [*ends, None], strict=True))
            prefix, inside, separator, delimiter = parts
            self._written[template] = Template(prefix, _before_answer(inside, delimiter), separator)
        return self._written[template]

    def framed(self, prompt: ChatPrompt) -> FramedPrompt:
        """A prompt as the model is given it.

        Raises:
            PromptError: The model has no chat template, or one that leaves out or changes a part of the prompt.
        """
        written = self.written(prompt.template)
        fields = {name: getattr(prompt, name) for name in ("task", "input", "answer", "alternatives")}
        segments = self._segments(prompt)
        whole = self.processor is None
        return FramedPrompt(segments, **fields, template=written, complete=whole)

    def _segments(self, prompt: ChatPrompt) -> tuple[Segment, ...]:
        """The prompt's segments among those of the frame.

        Raises:
            PromptError: No form of the messages gives them.
        """
        turns = tuple(turns_of(prompt))
        images = any(piece.image for turn in turns for piece in turn.pieces)
        tool = tool_of(self.tokenizer, self.processor, images=images)
        problems: list[str] = []
        for form in FORMS if tool is self.processor else FORMS[::-1]:
            try:
                return self._placed(tool, form, turns)
            except Exception as error:  # a template may refuse what it does not know: roles, their order, forms
                problems.append(str(error) or type(error).__name__)
        raise PromptError(
            f"The chat template of {type(tool).__name__} cannot frame a task: {'; '.join(dict.fromkeys(problems))}."
        )

    def _placed(self, tool: Any, form: Any, turns: Sequence[Turn]) -> tuple[Segment, ...]:
        pieces = [piece for turn in turns for piece in turn.pieces]
        marks = {id(piece): f"@@xmi{number}@@" for number, piece in enumerate(pieces)}

        def write(*, marked: bool) -> str:
            def part(piece: Piece) -> Part:
                return ("", "image") if piece.image else (marks[id(piece)] if marked else piece.text, None)

            messages = [{"role": turn.role, "content": form([part(p) for p in turn.pieces])} for turn in turns]
            options = {"tokenize": False, "add_generation_prompt": True, **_dated(tool.chat_template)}
            return str(tool.apply_chat_template(messages, **options))

        text = write(marked=True)
        spans = self._spans(text, pieces, marks, turns)
        found = tuple(_between(text, spans))
        own = "".join((self.placeholder or "") if s.image is not None else s.text for s in found)
        if own != write(marked=False):
            raise ValueError("it changes texts of the prompt (blanks at their ends, perhaps)")
        return found

    def _spans(
        self, text: str, pieces: Sequence[Piece], marks: dict[int, str], turns: Sequence[Turn]
    ) -> list[tuple[int, int, Turn, Piece]]:
        """Where each piece stands in the text that was written with marks.

        Raises:
            ValueError: A piece is left out, or stands there twice.
        """
        mark = self.placeholder or ""
        images = [piece for piece in pieces if piece.image]
        if images and not mark:
            raise ValueError("its placeholder for images is not known")
        if mark and text.count(mark) != len(images):
            raise ValueError(f"there are {len(images)} image(s) and {text.count(mark)} place(s) for them ({mark!r})")
        places = [i for i in range(len(text)) if text.startswith(mark, i)] if images else []
        at = dict(zip(map(id, images), places, strict=True))
        found = []
        for turn in turns:
            for piece in turn.pieces:
                sign = mark if piece.image else marks[id(piece)]
                if not piece.image and text.count(sign) != 1:
                    what = "the system message" if turn.role == SYSTEM else repr(piece.text[:60])
                    raise ValueError(f"it {'repeats' if sign in text else 'leaves out'} {what}")
                start = at[id(piece)] if piece.image else text.index(sign)
                found.append((start, start + len(sign), turn, piece))
        ordered = sorted(found, key=lambda span: span[0])
        numbers = {id(turn): number for number, turn in enumerate(turns)}
        order = [numbers[id(turn)] for _, _, turn, _ in ordered]
        if order != sorted(order):
            raise ValueError("it writes the messages in another order")
        return ordered


def _dated(source: Any) -> dict[str, Any]:
    """Options by which a template is told `DAY` where it asks for today."""
    if not isinstance(source, str):  # several by name, of which the tool chooses
        return {}
    options: dict[str, Any] = {"date_string": DAY.strftime("%d %b %Y")} if "date_string" in source else {}
    formats = {form for _, form in re.findall(r"strftime_now\(\s*(['\"])(.+?)\1", source)}
    if formats:
        days = {form: DAY.strftime(form) for form in sorted(formats)}
        macro = f"{{%- macro strftime_now(format) -%}}{{{{ {days!r}[format] }}}}{{%- endmacro -%}}"
        options["chat_template"] = macro + source
    return options


def _before_answer(inside: str, generation: str) -> str:
    """What stands before an answer, from what does in an example and from the end of a generation prompt.

    Where a template writes a blank before answers that its generation prompt leaves to the model, an answer begins with
    that blank.

    Raises:
        PromptError: The answer would not follow the generation prompt.
    """
    rest = inside.removeprefix(generation) if inside.startswith(generation) else ""
    if rest.strip() or not (inside.startswith(generation) or generation.startswith(inside)):
        raise PromptError(
            f"The chat template writes {inside!r} before the answers of examples, but its generation prompt ends in "
            f"{generation!r}: the answer would not be the next token. Set another chat_template."
        )
    return inside if rest else generation


def turns_of(prompt: ChatPrompt) -> Iterator[Turn]:
    """The messages of a prompt: one of the user before each answer, and one with the query at the end."""
    if prompt.template.system:
        yield Turn(SYSTEM, (Piece((Segment(SYSTEM, prompt.template.system),)),))
    said: list[Segment] = []
    answered = False
    for segment in (s for s in prompt.segments if s.image is not None or s.text):
        if segment.role == "answer":
            yield _turn(USER, said)
            yield _turn(ASSISTANT, [segment])
            said, answered = [], True
        elif not (answered and segment.role == "separator" and not said):  # the frame parts turns
            said.append(segment)
    if said:
        yield _turn(USER, said)


def _turn(role: str, segments: Sequence[Segment]) -> Turn:
    pieces: list[Piece] = []
    for segment in segments:
        if pieces and segment.image is None and not pieces[-1].image:
            pieces[-1] = Piece((*pieces[-1].segments, segment))
        else:
            pieces.append(Piece((segment,)))
    example = next((s.example for s in segments if s.example is not None), None)
    return Turn(role, tuple(pieces), example, any(s.query for s in segments))


def _between(text: str, spans: Sequence[tuple[int, int, Turn, Piece]]) -> Iterator[Segment]:
    """The segments of the prompt, and those of the frame around them."""
    before: Turn | None = None
    end = 0
    for start, stop, turn, piece in spans:
        if start > end:
            yield _of_frame(text[end:start], before, turn)
        yield from piece.segments
        before, end = turn, stop
    if text[end:]:
        yield _of_frame(text[end:], before, None)


def _of_frame(text: str, before: Turn | None, after: Turn | None) -> Segment:
    """A text of the frame: what leads to an answer is a delimiter, what follows one a separator."""
    found = Segment("frame", text)
    if before is None or before.role == SYSTEM:
        return found
    if before is after:
        return replace(found, example=before.example, query=before.query)
    if before.role == ASSISTANT:
        return Segment("separator", text, example=before.example)
    return Segment("delimiter", text, example=before.example, query=before.query)
