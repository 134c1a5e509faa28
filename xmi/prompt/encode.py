"""From prompts to a model's inputs, with the segment, modality and place of every token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from jaxtyping import Int

from xmi.byte_text import shown
from xmi.errors import PromptError
from xmi.model import guard_of, guarded
from xmi.prompt.acceptable import acceptable
from xmi.prompt.batch import Batch, Side, arrange
from xmi.prompt.chat import chat_prompt
from xmi.prompt.encoded import EncodedPrompt, as_tensors, rows_of
from xmi.prompt.frame import Frame
from xmi.prompt.image_places import image_places
from xmi.prompt.processor import Feeder, token_text
from xmi.prompt.prompt import ChatPrompt, ChatTemplate, Prompt, Prompts, Segment, Template
from xmi.prompt.seen_images import SeenImages
from xmi.prompt.token_bytes import TokenBytes
from xmi.prompt.token_roles import PADDING, trace_row
from xmi.shown import Shown


class Encoder(Shown):
    """Encodes prompts for one model.

    Attributes:
        tokenizer: The fast tokenizer.
        processor: The processor of a VLM, or None.
        placeholder: The text that stands for an image in the processor's input, or None if it has none.
        max_length: Longest sequence the model takes, or None.
        patch_grid: Patches per side of the vision tower, or None.
        guard: What lets one thread at a time use the tokenizer.
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
        patch_grid: int | None = None,
        vocabulary: int | None = None,
    ) -> None:
        """Makes an encoder.

        Args:
            tokenizer: A fast tokenizer.
            processor: A VLM's processor.
            max_length: Longest sequence the model takes.
            positions: Give position ids that count from each row's first real token, so that padding does not
                shift absolute positions.
            token_types: Keep the token types that some tokenizers add; few models take them.
            add_special_tokens: Let the tokenizer and processor add their own (BOS), as they do by default.
            patch_grid: Patches per side of the vision tower, from which places in a picture follow where neither
                sizes nor rows of tokens tell them.
            vocabulary: How many tokens the model has, where it may have more than the tokenizer.
        """
        self._feeder = Feeder(tokenizer, processor, add_special_tokens=add_special_tokens, token_types=token_types)
        self.guard = guard_of(tokenizer)
        self.tokenizer = tokenizer
        self.processor = processor
        self.placeholder = self._feeder.placeholder
        self.max_length = max_length
        self.positions = positions
        self.token_types = token_types
        self.patch_grid = patch_grid
        self.vocabulary = vocabulary
        self._texts: dict[int, str] = {}
        self._begun: dict[tuple[str, str], int] = {}
        self._bytes = TokenBytes(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._frame = Frame(tokenizer, processor, self.placeholder)

    @guarded
    def encode(self, prompts: Sequence[Prompt], padding_side: Side = "left") -> Batch:
        """Encodes prompts of any mixture of lengths and image counts into one padded batch.

        Args:
            prompts: The prompts.
            padding_side: Where shorter prompts are filled up.

        Raises:
            PromptError: No prompts, images without a processor or in places that it does not allow, an image that
                cannot be read, a prompt that is too long or contains the image placeholder as text, or tokens that
                cannot be traced back to the prompt.
        """
        if not prompts:
            raise PromptError("There are no prompts to encode.")
        if encoded := [p for p in prompts if isinstance(p, EncodedPrompt)]:
            return self._again(encoded, len(prompts), padding_side)
        prompts = [self._frame.framed(prompt) if isinstance(prompt, ChatPrompt) else prompt for prompt in prompts]
        prompts = [acceptable(prompt, self._feeder.marks, self.placeholder) for prompt in prompts]
        inputs, recorder = self._feeder.give(prompts, _side(padding_side))
        self._finish(inputs, prompts)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        first, last = (np.full(tuple(ids.shape), PADDING) for _ in range(2))
        rows = [ids[row, mask[row] > 0].tolist() for row in range(len(prompts))]
        self._check_mixture(prompts, rows)
        for row, prompt in enumerate(prompts):
            real = mask[row].nonzero().flatten().numpy()
            try:
                first[row, real], last[row, real] = self._trace(prompt, rows[row], recorder.pieces(row, len(prompts)))
            except PromptError:
                alone = self._trace_alone(prompt, rows[row]) if len(prompts) > 1 else None
                if alone is None:
                    raise
                first[row, real], last[row, real] = alone
        tokens = tuple(tuple(self._feeder.spell(row)) for row in ids.tolist())
        return Batch(inputs, tuple(prompts), first, last, tokens, self._places(prompts, inputs, first))

    @contextmanager
    def remembering(self, seen: SeenImages) -> Iterator[None]:
        """Within it, an image that was seen is not processed again.

        Args:
            seen: What remembers them.
        """
        self._feeder.seen, before = seen, self._feeder.seen
        try:
            yield
        finally:
            self._feeder.seen = before

    @guarded
    def accept(self, given: Any, padding_side: Side = "left") -> Batch:
        """Takes inputs that were encoded already, by the model's own processor or tokenizer.

        Args:
            given: Tensors, arrays or lists by name, with `input_ids`; or these ids alone.
            padding_side: Where padding is moved to.

        Returns:
            A batch without labels, whose rows are text, and images where the model's image token shows them: slot
            `last` is known, and a segment `text` or `input` for each stretch. Images that nothing but blanks or the
            tokens around an image part may count as one.

        Raises:
            PromptError: What was given are not encoded inputs, or not this model's.
        """
        inputs = as_tensors(given, self.tokenizer.pad_token_id)
        ids, size = inputs["input_ids"], max(len(self.tokenizer), self.vocabulary or 0)
        seeing = any(value.is_floating_point() for value in inputs.values())  # some mark images by other numbers
        if not seeing and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise PromptError(
                f"Tokens {int(ids.min())} to {int(ids.max())} are given, the model has 0 to {size - 1}: encode with "
                "its own tokenizer."
            )
        arrange(inputs, _side(padding_side))
        prompts, first = rows_of(inputs, self.tokenizer, self._image_id())
        self._finish(inputs, prompts)
        tokens = tuple(tuple(self._feeder.spell(row)) for row in inputs["input_ids"].tolist())
        return Batch(inputs, prompts, first, first.copy(), tokens, self._places(prompts, inputs, first))

    @guarded
    def chat(self, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """Writes chat messages with the model's own template; see `chat_prompt`."""
        return chat_prompt(messages, self.tokenizer, self.processor, self.placeholder)

    @guarded
    def written(self, template: Template) -> Template:
        """A template as this model's prompts are written by it: that of a chat with the texts of its frame.

        Raises:
            PromptError: The model has no chat template, or one that cannot frame a task.
        """
        return self._frame.written(template)

    @guarded
    def framed(self, prompts: Prompts) -> Prompts:
        """Prompts as this model is given them: those of a chat in their frame, others as they are.

        Raises:
            PromptError: As in `written`, or the frame leaves out or changes a part of a prompt.
        """
        if not isinstance(prompts.template, ChatTemplate):
            return prompts
        made = tuple(self._frame.framed(p) if isinstance(p, ChatPrompt) else p for p in prompts)
        return replace(prompts, prompts=made, template=self.written(prompts.template))

    def _again(self, prompts: Sequence[EncodedPrompt], count: int, side: Side) -> Batch:
        """Encodes prompts whose tokens are known already."""
        if len(prompts) < count or any(prompt.images for prompt in prompts):
            raise PromptError(
                "Encoded inputs with images, or among other prompts, cannot be put into another batch: of their "
                "images only the model's inputs are known. Give them as text and images (xmi.free_prompt)."
            )
        return self.accept({"input_ids": [list(prompt.ids) for prompt in prompts]}, side)

    def _finish(self, inputs: dict[str, torch.Tensor], prompts: Sequence[Prompt]) -> None:
        """Gives padded inputs what the model wants besides them, or refuses them if they are too long."""
        if not self.token_types:
            inputs.pop("token_type_ids", None)
        mask = inputs["attention_mask"]
        if self.max_length is not None and int(mask.sum(1).max()) > self.max_length:
            row = int(mask.sum(1).argmax())
            raise PromptError(
                f"Prompt {row} has {int(mask[row].sum())} tokens, the model takes {self.max_length}: use fewer shots. "
                f"It begins {prompts[row].text[:80]!r}."
            )
        if self.positions and "position_ids" not in inputs:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)

    @guarded
    def first_token(self, before: str, word: str) -> int:
        """Id of the first token of a word as it is tokenised after some text.

        Args:
            before: What stands before the word, for instance the template's delimiter.
            word: The word.

        Returns:
            The token's id.

        Raises:
            PromptError: The word is empty, its first token also holds the end of `before`, or the vocabulary lacks it.
        """
        if (before, word) not in self._begun:  # every seed asks for the same labels
            self._begun[before, word] = self._first_token(before, word)
        return self._begun[before, word]

    def _first_token(self, before: str, word: str) -> int:
        text = before + word
        encoding = self.tokenizer(text, add_special_tokens=False).encodings[0]
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # A leading space may belong to the word's token without being part of the word.
            if end > len(before):
                if text[start : len(before)].strip():
                    raise PromptError(
                        f"{word!r} has no token of its own after {before!r}: it merges into {text[start:end]!r}."
                    )
                if token == self.tokenizer.unk_token_id and word.strip() != self.tokenizer.unk_token:
                    raise PromptError(
                        f"{word!r} cannot be written with this model's tokens: it begins with {self.decode(token)!r}, "
                        "which stands for whatever they lack."
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
        return torch.tensor(found, dtype=torch.long)

    @guarded
    def first_tokens(self, before: str, labels: Sequence[str]) -> set[int]:
        """Ids of the first tokens of several labels, each as it is written and in Unicode's composed form (NFC).

        Raises:
            PromptError: As in `first_token`, of a label as it is written.
        """
        forms = [*labels, *(composed for label in labels if (composed := normalize("NFC", label)) != label)]
        return {self.first_token(before, form) for form in forms}

    @guarded
    def length(self, before: str, word: str) -> int:
        """How many tokens a word has as it is tokenised after some text; a token that holds both counts."""
        encoding = self.tokenizer(before + word, add_special_tokens=False).encodings[0]
        return sum(end > len(before) for _, end in encoding.offsets)

    @guarded
    def decode(self, token: int) -> str:
        """Returns the text of one token; bytes that are not a whole character are spelled out (`<0xE9>`)."""
        if token not in self._texts:  # sweeps ask for the same few tokens thousands of times
            self._texts[token] = self._bytes.text([token], skip_special=False)
        return self._texts[token]

    @guarded
    def is_whole(self, token: int) -> bool:
        """Returns whether a token is made of whole characters: it is not some of the bytes of one."""
        made = self._bytes.of(token)
        return made is None or shown(made).encode() == made

    @guarded
    def text(self, tokens: Sequence[int]) -> str:
        """Returns the text of several tokens, up to the end-of-sequence token; parts of characters as in `decode`."""
        stop = self.tokenizer.eos_token_id
        kept = list(tokens)[: list(tokens).index(stop)] if stop in tokens else list(tokens)
        if len(kept) == 1 and kept[0] not in self._special:
            return self.decode(kept[0])
        return self._bytes.text(kept)

    @guarded
    def word_ids(self, words: Sequence[str], before: str) -> tuple[int, ...]:
        """Ids with which the words may begin as a next token: as after `before`, and after a space.

        Words whose first token cannot be separated from `before` are left out; unknown-word tokens too.
        """
        found: list[int] = []
        for word in words:
            for variant in (word, f" {word}"):
                try:
                    token = self.first_token(before, variant)
                except PromptError:
                    continue
                if self.decode(token).strip():
                    found.append(token)
        return tuple(dict.fromkeys(found))

    def _check_mixture(self, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]]) -> None:
        """Refuses a processor that makes something else of a text because an image stands in another prompt."""
        plain = [row for row, prompt in enumerate(prompts) if not prompt.images]
        if not 0 < len(plain) < len(prompts):
            return
        alone, _ = self._feeder.give([prompts[row] for row in plain], "left")
        for row, ids, mask in zip(plain, alone["input_ids"], alone["attention_mask"], strict=True):
            if ids[mask > 0].tolist() != list(rows[row]):
                raise PromptError(
                    f"{type(self.processor).__name__} encodes prompt {row}, which has no image, differently when other "
                    f"prompts in the batch have images. Encode them separately. It begins {prompts[row].text[:80]!r}."
                )

    def _trace(self, prompt: Prompt, ids: Sequence[int], pieces: Sequence[Any]) -> tuple[list[int], list[int]]:
        held = [segment for segment in prompt.segments if segment.image is not None or segment.text]
        adjacent = any(a.image is not None and b.image is not None for a, b in pairwise(held))
        return trace_row(
            prompt.segments,
            ids,
            pieces,
            edge=self._feeder.edge,
            frame=self._feeder.frame if prompt.images else ((), ()),
            expansions=self._expansions(prompt) if adjacent else None,
            show=self._feeder.show,
        )

    def _trace_alone(self, prompt: Prompt, ids: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """Traces a prompt by what is tokenised without others beside it, if its tokens are the same then."""
        given, recorder = self._feeder.give([prompt], "left")
        alone = given["input_ids"][0, given["attention_mask"][0] > 0].tolist()
        return self._trace(prompt, ids, recorder.pieces(0, 1)) if alone == list(ids) else None

    def _image_id(self) -> int | None:
        """The id of the token by which the processor means an image, if it names one."""
        name = token_text(self.processor)
        found: int | None = self.tokenizer.convert_tokens_to_ids(name) if name else None
        return found

    def _places(
        self, prompts: Sequence[Prompt], inputs: dict[str, torch.Tensor], first: Int[np.ndarray, "row column"]
    ) -> Int[np.ndarray, "row column 3"]:
        return image_places(prompts, inputs, first, image_id=self._image_id(), patch_grid=self.patch_grid)

    def _expansions(self, prompt: Prompt) -> dict[int, list[int]]:
        """The tokens of each image, seen in a copy of the prompt in which no two images stand side by side."""
        segments: list[Segment] = []
        number: dict[int, int] = {}
        for i, segment in enumerate(prompt.segments):
            if segment.image is None and not segment.text:
                continue
            if segment.image is not None and segments and segments[-1].image is not None:
                segments.append(Segment("separator", "xmi"))
            number[len(segments)] = i
            segments.append(segment)
        apart = self.encode([Prompt(tuple(segments))])
        ids = apart.inputs["input_ids"][0].numpy()
        images = [i for i, segment in enumerate(segments) if segment.image is not None]
        return {number[i]: ids[apart.first[0] == i].tolist() for i in images}


def _side(side: Side) -> Side:
    if side not in ("left", "right"):
        raise PromptError(f"padding_side is left or right, not {side!r}.")
    return side
