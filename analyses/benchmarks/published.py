"""The published algorithm on plain Hugging Face: what xmi's study is compared with, in numbers and in time.

Luo, Darrell and Bar, "Vision-Language Models Create Cross-Modal Task Representations" (ICML 2025), as their protocol
and the first version of their code do it, rewritten: one prompt at a time, every answer a call of
`generate(max_new_tokens=1, use_cache=False)`, every patched layer another one, under a forward hook on a block. Nothing
of xmi is used. `tests/study/test_golden.py` holds both to the same vectors, layers and answers;
`analyses/benchmarks/study.py` holds them to the clock.

Two things are left out. Images go to the processor as they are, which scales them itself, in place of 224 pixels in
width. Where the delimiter stands is searched for in the expanded tokens, so that no offsets by model are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

Pieces = Sequence[str | Image.Image]
"""A prompt: text and images in order."""

QUERY, LAST_EXAMPLE = -1, -3
"""Where vectors are read, by count of delimiter tokens from the end (`Q:` has one as `A:` has): before the query's
answer, or before that of the last example, as the published code does."""


@dataclass(frozen=True)
class Published:
    """A model under the published algorithm.

    Attributes:
        model: A LLaVA, or a LLaMA as its base LLM, of Hugging Face.
        processor: The processor, or the tokenizer of a base LLM.
    """

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The decoder's blocks."""
        inner = self.model.model
        blocks: Sequence[torch.nn.Module] = getattr(inner, "language_model", inner).layers
        return blocks

    def encode(self, prompt: Pieces) -> dict[str, torch.Tensor]:
        """What the processor makes of one prompt."""
        text = "".join(p if isinstance(p, str) else self.processor.image_token for p in prompt)
        images = [p for p in prompt if not isinstance(p, str)]
        return dict(self.processor(text=text, **({"images": images} if images else {}), return_tensors="pt"))

    def slot(self, inputs: dict[str, torch.Tensor], match: int = QUERY) -> int:
        """Column of a delimiter token, counted among them."""
        delimiter = self.tokenizer("A:")["input_ids"][-1]
        return int((inputs["input_ids"][0] == delimiter).nonzero().flatten()[match])

    def generate(self, inputs: dict[str, torch.Tensor]) -> str:
        """The first token of the model's answer, as text."""
        options = {"max_new_tokens": 1, "do_sample": False, "use_cache": False}
        with torch.no_grad():
            made = self.model.generate(**inputs, **options, pad_token_id=self.tokenizer.pad_token_id)
        new = made[:, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.batch_decode(new, skip_special_tokens=True)[0])

    def read(self, prompt: Pieces, match: int = QUERY) -> torch.Tensor:
        """The residual after every block at a delimiter, [layer, d_model]."""
        inputs = self.encode(prompt)
        column = self.slot(inputs, match)
        kept: list[torch.Tensor] = []
        with _hooked(self.blocks, lambda output: kept.append(output[0, column].clone())):
            self.generate(inputs)
        return torch.stack(kept)

    def vector(self, prompts: Sequence[Pieces], match: int = QUERY) -> torch.Tensor:
        """The task vector: the mean over prompts of what is read from each, [layer, d_model]."""
        return torch.stack([self.read(prompt, match) for prompt in prompts]).mean(0)

    def answer(self, prompt: Pieces) -> str:
        """The answer to a prompt: Base, xBase, or a query without context."""
        return self.generate(self.encode(prompt))

    def patch(self, query: Pieces, vector: torch.Tensor, layers: Sequence[int] | None = None) -> list[str]:
        """Answers to a query without context, its delimiter overwritten after one layer at a time.

        Args:
            query: The query.
            vector: What is written, [layer, d_model].
            layers: After which blocks; by default all. What is written comes from the same layer.

        Returns:
            One answer per layer.
        """
        inputs = self.encode(query)
        column = self.slot(inputs)
        found = []
        for layer in range(len(self.blocks)) if layers is None else layers:

            def write(output: torch.Tensor, value: torch.Tensor = vector[layer]) -> None:
                output[0, column] = value

            with _hooked([self.blocks[layer]], write):
                found.append(self.generate(inputs))
        return found


def hit(predicted: str, label: str) -> bool:
    """Whether the answer's first token is a prefix of the label, or the label one of it."""
    first, second = predicted.strip(), label.strip()
    return min(len(first), len(second)) > 0 and (first.startswith(second) or second.startswith(first))


def choose_layer(curves: Sequence[Sequence[float]]) -> int:
    """The first layer at which the mean over tasks of the validation accuracy is highest; curves are [task, layer]."""
    return int(np.argmax(np.mean(curves, axis=0)))


@contextmanager
def _hooked(blocks: Sequence[torch.nn.Module], use: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Hands the residual stream after some blocks, [row, token, d_model], to a function that may change it."""

    def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        use(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
