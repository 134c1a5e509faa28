"""From prompts to a model's inputs, with the segment and modality of every token.

The role of a token is not guessed from ids or text: the encoder watches which text the processor finally hands to
its tokenizer (images expanded, tokens added), finds the prompt's own pieces in it, and follows the tokenizer's
character offsets. So it holds for any processor that expands an image into text before tokenising.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageOps

from xmi.errors import PromptError
from xmi.prompt.batch import PADDING, SPECIAL, Batch
from xmi.prompt.prompt import ImageLike, Prompt, Segment, Template


class _Recorder:
    """Stands in for a processor's tokenizer during one call and keeps what it was given and gave back."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.texts: list[str] = []
        self.encodings: list[Any] = []

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        result = self.tokenizer(text, *args, **kwargs)
        self.texts = [text] if isinstance(text, str) else list(text)
        self.encodings = list(result.encodings or [])
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


class Encoder:
    """Encodes prompts for one model.

    Attributes:
        tokenizer: The fast tokenizer, padding on the left.
        processor: The processor of a VLM, or None.
        placeholder: The text that stands for an image in the processor's input.
        max_length: Longest sequence the model takes, or None.
    """

    def __init__(
        self,
        tokenizer: Any,
        processor: Any | None = None,
        *,
        max_length: int | None = None,
        positions: bool = False,
        token_types: bool = False,
        add_special_tokens: bool = True,
    ) -> None:
        """Makes an encoder.

        Args:
            tokenizer: A fast tokenizer.
            processor: A VLM's processor.
            max_length: Longest sequence the model takes.
            positions: Give position ids that count from each row's first real token, so that padding does not
                shift absolute positions.
            token_types: Keep the token types that some tokenizers add; few models take them.
            add_special_tokens: Let the tokenizer add its own (BOS).
        """
        self.tokenizer = tokenizer
        self.processor = processor
        self.placeholder = _placeholder(processor) if processor is not None else None
        self.max_length = max_length
        self.positions = positions
        self.token_types = token_types
        self.add_special_tokens = add_special_tokens

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """Encodes prompts of any mixture of lengths and image counts into one left-padded batch.

        Raises:
            PromptError: No prompts, images without a processor, a prompt that is too long or contains the image
                placeholder as text, or tokens that cannot be traced back to the prompt.
        """
        if not prompts:
            raise PromptError("There are no prompts to encode.")
        texts = [self._text(prompt) for prompt in prompts]
        images = [[_open(image) for image in prompt.images] for prompt in prompts]
        recorder = _Recorder(self.tokenizer)
        options = {"padding": True, "return_tensors": "pt", "add_special_tokens": self.add_special_tokens}
        if self.processor is None or not any(images):
            if any(images):
                raise PromptError("The prompt has images, but the model is text-only: it has no processor for them.")
            encoded = recorder(texts, **options)
        else:
            encoded = self._process(recorder, texts, images, options)
        inputs = {k: v for k, v in encoded.items() if isinstance(v, torch.Tensor)}
        if not self.token_types:
            inputs.pop("token_type_ids", None)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if self.max_length is not None and ids.shape[1] > self.max_length:
            row = int(mask.sum(1).argmax())
            raise PromptError(
                f"Prompt {row} has {int(mask[row].sum())} tokens, the model takes {self.max_length}: use fewer shots. "
                f"It begins {prompts[row].text[:80]!r}."
            )
        if self.positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        spans = [self._spans(prompt, text) for prompt, text in zip(prompts, recorder.texts, strict=True)]
        first, last = _segments(ids, mask, recorder.encodings, spans)
        tokens = tuple(tuple(self.tokenizer.convert_ids_to_tokens(row)) for row in ids.tolist())
        return Batch(inputs, tuple(prompts), first, last, tokens)

    def first_token(self, before: str, word: str) -> int:
        """Id of the first token of a word as it is tokenised after some text.

        Args:
            before: What stands before the word, for instance the template's delimiter.
            word: The word.

        Returns:
            The token's id.

        Raises:
            PromptError: The word is empty, or its first token also holds the end of `before`.
        """
        text = before + word
        encoding = self.tokenizer(text, add_special_tokens=False).encodings[0]
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # A leading space may belong to the word's token without being part of the word.
            if end > len(before):
                if text[start : len(before)].strip():
                    raise PromptError(
                        f"{word!r} has no token of its own after {before!r}: it merges into {text[start:end]!r}."
                    )
                return int(token)
        raise PromptError(f"{word!r} has no token after {before!r}.")

    def answer_ids(self, prompts: Sequence[Prompt], template: Template) -> Int[torch.Tensor, " prompt"]:
        """Id of the first token of each prompt's label, as it follows the template's delimiter.

        Raises:
            PromptError: A prompt has no label.
        """
        found = []
        for number, prompt in enumerate(prompts):
            if not prompt.answer:
                raise PromptError(f"Prompt {number} has no answer to compare with: {prompt.text[-60:]!r}")
            found.append(self.first_token(template.delimiter, prompt.answer))
        return torch.tensor(found)

    def decode(self, token: int) -> str:
        """Returns the text of one token."""
        return str(self.tokenizer.decode([token]))

    def word_ids(self, words: Sequence[str], before: str) -> tuple[int, ...]:
        """Ids with which the words may begin as a next token: as after `before`, and after a space.

        Words whose first token cannot be told apart from `before` are left out; unknown-word tokens too.
        """
        found: list[int] = []
        for word in words:
            for variant in (word, f" {word}"):
                try:
                    token = self.first_token(before, variant)
                except PromptError:
                    continue
                if token != self.tokenizer.unk_token_id and self.tokenizer.decode([token]).strip():
                    found.append(token)
        return tuple(dict.fromkeys(found))

    def _text(self, prompt: Prompt) -> str:
        if self.placeholder is not None:
            for segment in prompt.segments:
                if self.placeholder in segment.text:
                    raise PromptError(
                        f"The text {segment.text!r} contains the image placeholder {self.placeholder!r}: "
                        "pass images as images, not as text."
                    )
        return "".join(s.text if s.image is None else str(self.placeholder) for s in prompt.segments)

    def _process(self, recorder: _Recorder, texts: list[str], images: list[list[Any]], options: dict[str, Any]) -> Any:
        processor: Any = self.processor
        processor.tokenizer = recorder
        try:
            return processor(text=texts, images=images, **options)
        except (ValueError, TypeError, IndexError) as error:
            raise PromptError(f"The processor {type(processor).__name__} refused the prompts: {error}") from error
        finally:
            processor.tokenizer = self.tokenizer

    def _spans(self, prompt: Prompt, text: str) -> list[tuple[int, int]]:
        """Character span of each segment in the text that the tokenizer saw."""
        if self.placeholder is None or not prompt.images:
            ends = np.cumsum([len(s.text) for s in prompt.segments]).tolist()
            if text != prompt.text:
                raise PromptError(f"The tokenizer was given {text[:60]!r} in place of the prompt {prompt.text[:60]!r}.")
            return list(zip([0, *ends[:-1]], ends, strict=True))
        left, right = _locate(prompt.segments, text), _locate(prompt.segments, text, from_right=True)
        if left != right:
            raise PromptError(
                f"Cannot tell text from image tokens in what the processor made of the prompt: {text[:200]!r}"
            )
        return left


def _locate(segments: Sequence[Segment], text: str, *, from_right: bool = False) -> list[tuple[int, int]]:
    """Spans of the segments in an expanded text: text runs are found in order, images are what lies between.

    Found once from the left and once from the right; if the two disagree, the text is ambiguous.
    """
    runs: list[tuple[bool, str, int]] = []  # (is image, text, number of segments)
    for segment in segments:
        if segment.image is None and runs and not runs[-1][0]:
            runs[-1] = (False, runs[-1][1] + segment.text, runs[-1][2] + 1)
        else:
            runs.append((segment.image is not None, segment.text, 1))
    literals = [(i, run[1]) for i, run in enumerate(runs) if not run[0]]
    where: dict[int, tuple[int, int]] = {}
    edge = len(text) if from_right else 0
    for i, literal in reversed(literals) if from_right else literals:
        # At the outer ends the text must stand where the prompt begins or ends, unless the processor added to it.
        at = text.rfind(literal, 0, edge) if from_right else text.find(literal, edge)
        if at < 0:
            raise PromptError(f"The processor changed the text {literal!r} of the prompt; its tokens cannot be traced.")
        where[i] = (at, at + len(literal))
        edge = at if from_right else at + len(literal)
    spans: list[tuple[int, int]] = []
    position = iter(segments)
    for i, (is_image, _, count) in enumerate(runs):
        if is_image:
            start = where[i - 1][1] if i - 1 in where else 0
            end = where[i + 1][0] if i + 1 in where else len(text)
            if (i and runs[i - 1][0]) or (i + 1 < len(runs) and runs[i + 1][0]):
                raise PromptError("Two images stand side by side without text between them; put a separator there.")
            next(position)
            spans.append((start, end))
            continue
        at = where[i][0]
        for _ in range(count):
            segment = next(position)
            spans.append((at, at + len(segment.text)))
            at += len(segment.text)
    return spans


def _segments(
    ids: torch.Tensor, mask: torch.Tensor, encodings: list[Any], spans: list[list[tuple[int, int]]]
) -> tuple[Int[np.ndarray, "row column"], Int[np.ndarray, "row column"]]:
    first = np.full(tuple(ids.shape), PADDING)
    last = np.full(tuple(ids.shape), PADDING)
    for row, (encoding, segments) in enumerate(zip(encodings, spans, strict=True)):
        real = [j for j, m in enumerate(encoding.attention_mask) if m]
        columns = torch.nonzero(mask[row]).flatten().tolist()
        if [encoding.ids[j] for j in real] != ids[row, columns].tolist():
            raise PromptError("The processor changed the tokens after tokenising; their roles cannot be traced.")
        ends = np.array([end for _, end in segments])
        starts = np.array([start for start, _ in segments])
        for column, j in zip(columns, real, strict=True):
            start, end = encoding.offsets[j]
            if end <= start or encoding.special_tokens_mask[j]:
                inside = end > start and bool(((starts <= start) & (end <= ends)).any())
                if not inside:
                    first[row, column] = last[row, column] = SPECIAL
                    continue
            first[row, column] = int(np.searchsorted(ends, start, side="right"))
            last[row, column] = int(np.searchsorted(ends, end - 1, side="right"))
            if first[row, column] >= len(segments):  # text the processor added behind the prompt
                first[row, column] = last[row, column] = SPECIAL
    return first, last


def _placeholder(processor: Any) -> str:
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
    token = getattr(processor, "image_token", None)
    if not token:
        raise PromptError(
            f"{type(processor).__name__} names no image token and has no chat template that shows one: xmi cannot "
            "place images in its prompts."
        )
    return str(getattr(token, "content", token))


def _open(image: ImageLike) -> Image.Image:
    """Opens an image as RGB, upright, transparent parts on white."""
    if isinstance(image, Image.Image):
        return _plain(image)
    path = Path(image)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError) as error:
        raise PromptError(f"Cannot open the image {image}: {error}") from error


@lru_cache(maxsize=512)
def _read(path: Path, _modified: int) -> Image.Image:
    """Reads a file; a study shows the same few images thousands of times."""
    with Image.open(path) as picture:
        return _plain(picture)


def _plain(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")
