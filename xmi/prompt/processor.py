"""How a processor is given its prompts, and what comes back.

How it wants its images is not looked up but tried: at a placeholder in the text (given per prompt or all in a row),
between texts in a list, or given apart, where the processor puts them before the text by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Literal

import torch
from PIL import Image

from xmi.errors import PromptError
from xmi.model import guard_of, once
from xmi.prompt.batch import Side, arrange
from xmi.prompt.pictures import described, open_image
from xmi.prompt.prompt import FramedPrompt, Prompt, Segment
from xmi.prompt.seen_images import SeenImages
from xmi.prompt.token_roles import Recorder, trace_row

WORD = "is"
"""A text to try things on."""
Way = Literal["placeholder", "flat", "interleaved", "first"]
Given = tuple[dict[str, torch.Tensor], Recorder]
"""The model's inputs, padded on the side that was asked for, and what the tokenizer was seen to do."""


class Feeder:
    """Gives prompts to a tokenizer or processor, watching the tokenizer.

    Attributes:
        tokenizer: The fast tokenizer.
        processor: The processor, or None.
        placeholder: The text that stands for an image in the processor's input, or None if it has none.
        edge: Ids that may frame an image without being part of it: BOS, EOS, padding and their like.
        seen: What remembers images, in a study.
    """

    def __init__(
        self, tokenizer: Any, processor: Any | None, *, add_special_tokens: bool = True, token_types: bool = False
    ) -> None:
        """Makes a feeder."""
        self.guard = guard_of(tokenizer)
        self.tokenizer = tokenizer
        self.processor = processor
        self.placeholder = _placeholder(processor) if processor is not None else None
        self.add_special_tokens = add_special_tokens
        self.token_types = token_types
        self.seen: SeenImages | None = None
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id")
        self.edge = frozenset(i for name in names if (i := getattr(tokenizer, name, None)) is not None)

    @property
    def marks(self) -> set[str]:
        """The texts that mean an image, and so must not be written by a user."""
        return {mark for mark in (self.placeholder, token_text(self.processor)) if mark}

    def give(self, prompts: Sequence[Prompt], side: Side) -> Given:
        """Encodes prompts into padded inputs.

        Raises:
            PromptError: There are images that cannot be read or given to the model, or the processor refuses.
        """
        if not any(prompt.images for prompt in prompts):
            complete = {p.text for p in prompts if isinstance(p, FramedPrompt) and p.complete}
            given, recorder = self._words([prompt.text for prompt in prompts], side, complete)
        elif self.processor is None:
            raise PromptError("The prompt has images, but the model is text-only: it has no processor for them.")
        else:
            given, recorder = self._process(prompts, self._way, side)
        inputs = {n: value for n, value in given.items() if isinstance(value, torch.Tensor) and n != "labels"}
        arrange(inputs, side)
        return inputs, recorder

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary has them; some processors mark images by numbers outside of it."""
        known = [i for i in ids if i >= 0]
        words = dict(zip(known, self.tokenizer.convert_ids_to_tokens(known), strict=True))
        return [str(words[i]) if words.get(i) is not None else f"<{i}>" for i in ids]

    def show(self, ids: Sequence[int]) -> str:
        """The last tokens, for messages."""
        return " ".join(map(repr, self.spell(list(ids)[-60:])))

    def _words(self, texts: list[str], side: Side, complete: Collection[str] = ()) -> tuple[Any, Recorder]:
        """Texts alone, through the processor if it takes them: it may add BOS or an end, as it does with images."""
        if form := self._form:
            try:
                return self._call({"text": form(texts)}, side)
            except Exception as error:  # other people's code; whatever it raises is about these texts
                raise self._refusal(texts[0], error) from error
        recorder = Recorder(self.tokenizer, complete)
        with _padding(self.tokenizer, side):
            # A tokenizer on its own is taken at its word: GPT-2 has token types that nobody gives it.
            types = {"return_token_type_ids": True} if self.token_types and self.processor is not None else {}
            return recorder(texts, **types, **self._options()), recorder

    @once
    def _form(self) -> Callable[[list[str]], list[Any]] | None:
        """The form in which the processor takes texts without images, found by trying; None if it takes none."""
        forms: tuple[Callable[[list[str]], list[Any]], ...] = (list, lambda texts: [[text] for text in texts])
        for form in forms if self.processor is not None else ():
            try:
                encoded, _ = self._call({"text": form([WORD, WORD])}, "left")
            except Exception:  # some processors take no prompt without an image
                continue
            if len(encoded["input_ids"]) == 2:
                return form
        return None

    def _refusal(self, text: str, error: Exception) -> PromptError:
        return PromptError(
            f"The processor {type(self.processor).__name__} refused the prompts: {str(error) or type(error).__name__} "
            f"The first begins {text[:80]!r}."
        )

    def _call(self, arguments: dict[str, Any], side: Side) -> tuple[Any, Recorder]:
        """Calls the processor while its tokenizer is watched."""
        recorder = Recorder(self.tokenizer)
        processor: Any = copy(self.processor)  # what others look at meanwhile keeps its tokenizer
        processor.tokenizer = recorder
        if self.seen is not None and hasattr(processor, "image_processor"):
            processor.image_processor = self.seen.by(processor.image_processor)
        with _padding(self.tokenizer, side):
            return processor(**arguments, **self._options()), recorder

    def _options(self) -> dict[str, Any]:
        """What every call asks for; whether special tokens are added is the processor's business by default."""
        plain = {} if self.add_special_tokens else {"add_special_tokens": False}
        return {"padding": True, "return_tensors": "pt", **plain}

    def _process(self, prompts: Sequence[Prompt], way: Way, side: Side) -> tuple[Any, Recorder]:
        """Calls the processor with images given one way, its tokenizer being watched."""
        arguments = self._arguments(prompts, way)
        if any(image.height in (1, 3) for image in _pictures(list(arguments.values()))):
            self._check_rows(prompts, way)
        try:
            return self._call(arguments, side)
        except Exception as error:  # other people's code; whatever it raises is about these prompts
            raise self._blame(prompts, way) or self._refusal(prompts[0].text, error) from error

    def _arguments(self, prompts: Sequence[Prompt], way: Way) -> dict[str, Any]:
        """What the processor is called with."""
        if way == "first":
            for row, prompt in enumerate(prompts):
                held = [segment for segment in prompt.segments if segment.image is not None or segment.text]
                if [i for i, segment in enumerate(held) if segment.image is not None] != [0]:
                    raise PromptError(
                        f"{type(self.processor).__name__} puts one image before the text of every prompt, but prompt "
                        f"{row} is not one image and then text: {prompt.text[:120]!r}. Encode prompts without images "
                        "separately."
                    )
        images = [[open_image(image) for image in prompt.images] for prompt in prompts]
        if way == "interleaved":
            return {"text": [list(_mixed(p, i)) for p, i in zip(prompts, images, strict=True)]}
        mark = str(self.placeholder) if way in ("placeholder", "flat") else ""
        return {
            "text": ["".join(s.text if s.image is None else mark for s in prompt.segments) for prompt in prompts],
            "images": [image for row in images for image in row] if way == "flat" else images,
        }

    def _blame(self, prompts: Sequence[Prompt], way: Way) -> PromptError | None:
        """What to say of the first image that the processor refuses on its own, or beside an ordinary one."""
        ordinary = _ordinary()
        for others in ([], [ordinary]):
            if self._stops([*others, ordinary], way):
                return None
            for name, alone in lone_images(prompts):
                if error := self._stops([*others, alone], way):
                    tool, why = type(self.processor).__name__, str(error) or type(error).__name__
                    return PromptError(f"The processor {tool} cannot take {name}: {why}")
        return None

    def _stops(self, prompts: Sequence[Prompt], way: Way) -> Exception | None:
        """The error with which the processor refuses prompts, if it does."""
        try:
            self._call(self._arguments(prompts, way), "left")
        except Exception as error:
            return error
        return None

    def _check_rows(self, prompts: Sequence[Prompt], way: Way) -> None:
        """Refuses images whose rows the processor takes for colours, as code does that looks for an axis of 3.

        Seen on an image of one colour, which has few values; more of them than a lower and a higher image has.
        """
        for name, alone in lone_images(prompts):
            height = open_image(alone.images[0]).height
            if height in (1, 3) and self._values(height, way) > max(self._values(h, way) for h in (2, 4)) + 1:
                raise PromptError(
                    f"The processor {type(self.processor).__name__} takes the rows of {name} for colours because "
                    "there are so few of them: scale the image up."
                )

    def _values(self, height: int, way: Way) -> int:
        """How many different values the processor makes of an image of one colour."""
        probe = Segment("input", image=Image.new("RGB", (48, height), (200, 100, 50)))
        try:
            given, _ = self._call(self._arguments([Prompt((probe, Segment("text", WORD)))], way), "left")
        except Exception:  # what it refuses it does not misread
            return 0
        pixels = [v for v in given.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        return len({round(n, 2) for v in pixels for n in v.flatten().tolist()})

    @once
    def _way(self) -> Way:
        """How the processor takes images, found by trying on a picture and a word.

        A processor that puts the image first by itself shows in two ways: it needs no placeholder for the image to
        get its tokens, and a placeholder in the text gives one token too many.
        """
        problems: list[str] = []
        marked: tuple[Way, ...] = ("placeholder", "flat") if self.placeholder is not None else ()
        for way in (*marked, "interleaved", "first"):
            try:
                length = self._tried(way)
                if way not in marked or length <= self._tried("first", length):
                    return way
                problems.append(f"  {way}: the image gets tokens without its placeholder already")
            except PromptError as error:
                problems.append(f"  {way}: {error}")
        listing = "\n".join(problems)
        raise PromptError(
            f"{type(self.processor).__name__} shows no way to place an image among the tokens of a prompt. Tried on "
            f"an image and a word:\n{listing}"
        )

    @once
    def frame(self) -> tuple[list[int], list[int]]:
        """The tokens that are put before and behind a prompt without images: BOS, a system prompt, a separator."""
        given, recorder = self._words([WORD], "left")
        ids = given["input_ids"][0].tolist()
        try:
            first, _ = trace_row([Segment("text", WORD)], ids, recorder.pieces(0, 1))
        except PromptError:
            return [], []
        text = [i for i, segment in enumerate(first) if segment == 0]
        return ids[: text[0]], ids[text[-1] + 1 :]

    def _tried(self, way: Way, otherwise: int | None = None) -> int:
        """How many tokens a picture and a word get when the image is given one way."""
        probe = _ordinary()
        try:
            given, recorder = self._process([probe], way, "left")
            ids = given["input_ids"][0, given["attention_mask"][0] > 0].tolist()
            trace_row(probe.segments, ids, recorder.pieces(0, 1), edge=self.edge, frame=self.frame, show=self.show)
        except PromptError:
            if otherwise is None:
                raise
            return otherwise
        return len(ids)


def _pictures(given: Any) -> Iterator[Image.Image]:
    """The images in nested lists."""
    if isinstance(given, Image.Image):
        yield given
    elif isinstance(given, list):
        yield from (image for part in given for image in _pictures(part))


def _ordinary() -> Prompt:
    """An image that every processor takes, before a word."""
    return Prompt((Segment("input", image=Image.effect_noise((224, 224), 50.0)), Segment("text", WORD)))


def lone_images(prompts: Sequence[Prompt]) -> Iterator[tuple[str, Prompt]]:
    """Each image on its own before a word, after its name for messages: file or place in the prompts, and size."""
    for row, prompt in enumerate(prompts):
        for number, image in enumerate(prompt.images):
            place = f"image {number} of prompt {row}"
            name = place if isinstance(image, Image.Image) else f"{image} ({place})"
            yield (
                f"{name}, {described(open_image(image))}",
                Prompt((Segment("input", image=image), Segment("text", WORD))),
            )


@contextmanager
def _padding(tokenizer: Any, side: Side) -> Iterator[None]:
    """Lets a tokenizer pad on one side for a while."""
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        yield
    finally:
        tokenizer.padding_side = before


def _mixed(prompt: Prompt, images: list[Image.Image]) -> Iterator[str | Image.Image]:
    """A prompt as texts and images in turn."""
    rest, text = iter(images), ""
    for segment in prompt.segments:
        if segment.image is None:
            text += segment.text
            continue
        if text:
            yield text
        yield next(rest)
        text = ""
    if text:
        yield text


def token_text(processor: Any) -> str | None:
    """The text of a processor's image token, if it names one."""
    token = getattr(processor, "image_token", None)
    return str(getattr(token, "content", token)) if token else None


def _placeholder(processor: Any) -> str | None:
    """The text by which a processor knows where an image goes, read off its own chat template if it has one."""
    mark = "@@xmi@@"
    if getattr(processor, "chat_template", None):
        image, text = {"type": "image"}, {"type": "text", "text": mark}
        try:
            with_image, without = (
                processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
                for content in ([image, text], [text])
            )
        except Exception:  # a template may refuse such content; the processor's own token is the next best source
            with_image = without = ""
        if mark in with_image and mark in without:
            head, tail = without.split(mark, 1)[0], with_image.split(mark, 1)[0]
            if tail.startswith(head) and tail[len(head) :].strip():
                return str(tail[len(head) :].strip())
    return token_text(processor)
