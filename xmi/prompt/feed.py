"""How a processor is given its prompts, and what comes back.

How it wants its images is not looked up but tried: at a placeholder in the text (given per prompt or all in a row),
between texts in a list, or given apart, where the processor puts them before the text by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image

from xmi.errors import PromptError
from xmi.prompt.pictures import open_image
from xmi.prompt.prompt import Prompt, Segment
from xmi.prompt.trace import Recorder, trace_row

WORD = "is"
"""A text to try things on."""
Way = Literal["placeholder", "flat", "interleaved", "first"]
Side = Literal["left", "right"]
Given = tuple[dict[str, torch.Tensor], Recorder]
"""The model's inputs, padded on the side that was asked for, and what the tokenizer was seen to do."""


class Feeder:
    """Gives prompts to a tokenizer or processor, watching the tokenizer.

    Attributes:
        tokenizer: The fast tokenizer.
        processor: The processor, or None.
        placeholder: The text that stands for an image in the processor's input, or None if it has none.
        edge: Ids that may frame an image without being part of it: BOS, EOS, padding and their like.
    """

    def __init__(
        self, tokenizer: Any, processor: Any | None, *, add_special_tokens: bool = True, token_types: bool = False
    ) -> None:
        """Makes a feeder."""
        self.tokenizer = tokenizer
        self.processor = processor
        self.placeholder = _placeholder(processor) if processor is not None else None
        self.add_special_tokens = add_special_tokens
        self.token_types = token_types
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
            given, recorder = self._words([prompt.text for prompt in prompts], side)
        elif self.processor is None:
            raise PromptError("The prompt has images, but the model is text-only: it has no processor for them.")
        else:
            given, recorder = self._process(prompts, self._way, side)
        inputs = {n: value for n, value in given.items() if isinstance(value, torch.Tensor) and n != "labels"}
        _arrange(inputs, side)
        return inputs, recorder

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary has them; some processors mark images by numbers outside of it."""
        known = [i for i in ids if i >= 0]
        words = dict(zip(known, self.tokenizer.convert_ids_to_tokens(known), strict=True))
        return [str(words[i]) if words.get(i) is not None else f"<{i}>" for i in ids]

    def show(self, ids: Sequence[int]) -> str:
        """The last tokens, for messages."""
        return " ".join(map(repr, self.spell(list(ids)[-60:])))

    def _words(self, texts: list[str], side: Side) -> tuple[Any, Recorder]:
        """Texts alone, through the processor if it takes them: it may add BOS or an end, as it does with images."""
        for given in (texts, [[text] for text in texts]) if self.processor is not None else ():
            try:
                encoded, recorder = self._call({"text": given}, side)
            except Exception:  # some processors take no prompt without an image
                continue
            if len(encoded["input_ids"]) == len(texts):
                return encoded, recorder
        recorder = Recorder(self.tokenizer)
        with _padding(self.tokenizer, side):
            # A tokenizer on its own is taken at its word: GPT-2 has token types that nobody gives it.
            types = {"return_token_type_ids": True} if self.token_types and self.processor is not None else {}
            return recorder(texts, **types, **self._options()), recorder

    def _call(self, arguments: dict[str, Any], side: Side) -> tuple[Any, Recorder]:
        """Calls the processor while its tokenizer is watched."""
        processor: Any = self.processor
        recorder = Recorder(self.tokenizer)
        processor.tokenizer = recorder
        try:
            with _padding(self.tokenizer, side):
                return processor(**arguments, **self._options()), recorder
        finally:
            processor.tokenizer = self.tokenizer

    def _options(self) -> dict[str, Any]:
        """What every call asks for; whether special tokens are added is the processor's business by default."""
        plain = {} if self.add_special_tokens else {"add_special_tokens": False}
        return {"padding": True, "return_tensors": "pt", **plain}

    def _process(self, prompts: Sequence[Prompt], way: Way, side: Side) -> tuple[Any, Recorder]:
        """Calls the processor with images given one way, its tokenizer being watched."""
        processor: Any = self.processor
        if way == "first":
            for row, prompt in enumerate(prompts):
                held = [segment for segment in prompt.segments if segment.image is not None or segment.text]
                if [i for i, segment in enumerate(held) if segment.image is not None] != [0]:
                    raise PromptError(
                        f"{type(processor).__name__} puts one image before the text of every prompt, but prompt {row} "
                        f"is not one image and then text: {prompt.text[:120]!r}. Encode prompts without images apart."
                    )
        images = [[open_image(image) for image in prompt.images] for prompt in prompts]
        mark = str(self.placeholder) if way in ("placeholder", "flat") else ""
        arguments: dict[str, Any] = {
            "text": ["".join(s.text if s.image is None else mark for s in prompt.segments) for prompt in prompts],
            "images": [image for row in images for image in row] if way == "flat" else images,
        }
        if way == "interleaved":
            arguments = {"text": [list(_mixed(p, i)) for p, i in zip(prompts, images, strict=True)]}
        try:
            return self._call(arguments, side)
        except Exception as error:  # other people's code; whatever it raises is about these prompts
            raise PromptError(
                f"The processor {type(processor).__name__} refused the prompts: {str(error) or type(error).__name__} "
                f"The first begins {prompts[0].text[:80]!r}."
            ) from error

    @cached_property
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

    @cached_property
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
        probe = Prompt((Segment("input", image=Image.effect_noise((224, 224), 50.0)), Segment("text", WORD)))
        try:
            given, recorder = self._process([probe], way, "left")
            ids = given["input_ids"][0, given["attention_mask"][0] > 0].tolist()
            trace_row(probe.segments, ids, recorder.pieces(0, 1), edge=self.edge, frame=self.frame, show=self.show)
        except PromptError:
            if otherwise is None:
                raise
            return otherwise
        return len(ids)


@contextmanager
def _padding(tokenizer: Any, side: Side) -> Iterator[None]:
    """Lets a tokenizer pad on one side for a while."""
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        yield
    finally:
        tokenizer.padding_side = before


def _arrange(inputs: dict[str, torch.Tensor], side: Side) -> None:
    """Moves padding to its side where a processor left it elsewhere, in everything that is given per token."""
    shape = inputs["input_ids"].shape
    mask = inputs["attention_mask"]
    order = (mask if side == "left" else 1 - mask).argsort(dim=1, stable=True)
    if bool((order == torch.arange(shape[1])).all()):
        return
    for name, value in inputs.items():
        # Ids and mask of another tokenizer (a Q-Former's) may happen to be as long.
        other = (
            value.dim() == 2
            and name not in ("input_ids", "attention_mask")
            and name.endswith(("_input_ids", "_attention_mask"))
        )
        if value.shape[:2] == shape and not other:
            index = order.reshape(*shape, *[1] * (value.dim() - 2)).expand_as(value)
            inputs[name] = value.gather(1, index)


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
