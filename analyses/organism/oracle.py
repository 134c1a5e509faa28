"""Plain Hugging Face forwards with one state read or written: an oracle that shares no code with the toolkit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analyses.organism.world import Entity


@dataclass
class Prompt:
    """A text with ``<image>`` where images stand, and the entities shown in them."""

    text: str = ""
    images: list[Entity] = field(default_factory=list)

    def item(self, entity: Entity, image: bool, answer: str | None) -> Prompt:
        """Return the prompt with an example, or with the query if there is no answer."""
        end = "" if answer is None else f"{answer}\n\n"
        text = f"{self.text}Q:{'<image>' if image else entity.name}\nA:{end}"
        return Prompt(text, [*self.images, entity] if image else self.images)


@dataclass
class Answer:
    """First answer tokens ``[n]`` and the residual stream at the last token ``[layer + 1, n, d_model]``."""

    top: Tensor
    residual: Tensor


class Oracle:
    """A model read and patched at the last token.

    Args:
        model: A LLaVA or a causal LM, as Transformers loads it.
        processor: Its processor, or its tokenizer if it has no eye.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        self.sees = hasattr(processor, "image_processor")
        self.tokenizer = processor.tokenizer if self.sees else processor
        self.decoder = model.model.language_model if self.sees else model.model
        self.head = model.lm_head
        self._images: dict[str, Image.Image] = {}
        self._encoded: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def token(self, word: str) -> int:
        """Return the first token of a word."""
        return int(self.tokenizer(word, add_special_tokens=False).input_ids[0])

    def _inputs(self, prompts: list[Prompt], keep: bool) -> dict[str, Tensor]:
        """Return the processor's output; queries that will come again, layer after layer, are kept."""
        key = tuple((p.text, *(e.index for e in p.images)) for p in prompts)
        if key in self._encoded:
            return self._encoded[key]
        inputs = self._encode(prompts)
        if keep:
            self._encoded[key] = inputs
        return inputs

    def _encode(self, prompts: list[Prompt]) -> dict[str, Tensor]:
        texts = [p.text for p in prompts]
        if not self.sees:
            out = self.tokenizer(texts, return_tensors="pt", padding=True)
            return {k: out[k] for k in ("input_ids", "attention_mask")}
        nested = [[self._image(e) for e in p.images] for p in prompts]
        images = nested if any(nested) else None
        return dict(self.processor(text=texts, images=images, return_tensors="pt", padding=True))

    def _image(self, entity: Entity) -> Image.Image:
        key = str(entity.image)
        if key not in self._images:
            with Image.open(entity.image) as image:
                self._images[key] = image.convert("RGB")
        return self._images[key]

    @torch.no_grad()
    def run(self, prompts: list[Prompt], patch: tuple[int, Tensor] | None = None, size: int = 100) -> Answer:
        """Run prompts in batches.

        Args:
            prompts: What to run; all with images or all without within a call is not required.
            patch: Layer and states ``[n, d_model]`` that replace its output at the last token.
            size: Prompts in a batch.
        """
        tops, residuals = [], []
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            seen: list[Tensor] = []
            hooks = [self.decoder.layers[0].register_forward_pre_hook(_entry(seen))]
            for index, layer in enumerate(self.decoder.layers):
                new = patch[1][part] if patch is not None and patch[0] == index else None
                hooks.append(layer.register_forward_hook(_reader(seen, new)))
            inputs = self._inputs(prompts[part], patch is not None)
            try:
                logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits
            finally:
                for hook in hooks:
                    hook.remove()
            tops.append(logits[:, -1].argmax(-1))
            residuals.append(torch.stack(seen))
        return Answer(torch.cat(tops), torch.cat(residuals, 1))

    @torch.no_grad()
    def lens(self, residual: Tensor) -> Tensor:
        """Return the probabilities that the final norm and the unembedding read from states ``[..., d_model]``."""
        probabilities: Tensor = self.head(self.decoder.norm(residual)).softmax(-1)
        return probabilities


def _entry(seen: list[Tensor]) -> Any:
    def hook(module: Any, args: Any) -> None:
        seen.append(args[0][:, -1])

    return hook


def _reader(seen: list[Tensor], new: Tensor | None) -> Any:
    def hook(module: Any, args: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        if new is not None:
            state = state.clone()
            state[:, -1] = new
        seen.append(state[:, -1].clone())
        if new is None:
            return output
        return (state, *output[1:]) if isinstance(output, tuple) else state

    return hook
