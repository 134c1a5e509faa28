"""What xmi is compared with: plain Hugging Face and forward hooks, which know neither nnsight nor packing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.zoo.family import Family
from xmi.prompt import Batch, Prompt, Prompts, Segment
from xmi.vlm import VLM

NAMES = ("Greece", "Italy", "France", "Peru")
CITIES = ("Athens", "Rome", "Paris", "Lima")


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40 + 8 * seed, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompts_for(images: str) -> Prompts:
    """Queries of mixed length after none, two or one examples, with images as a family takes them (`Family.images`)."""
    made = []
    for row, shots in enumerate((0, 2, 1)):
        segments = [Segment("image", image=picture(row + 1))] if images == "first" else []
        for k in range(shots):
            example = _input(k, k, images == "many")
            segments += [Segment("prefix", "Q:", example=k), example, Segment("delimiter", "\nA:", example=k)]
            segments += [Segment("answer", CITIES[k], example=k), Segment("separator", "\n\n", example=k)]
        query = _input(row + 1, None, images in ("many", "alike", "one"))
        segments += [Segment("prefix", "Q:", query=True), query, Segment("delimiter", "\nA:", query=True)]
        made.append(Prompt(tuple(segments), "capital", NAMES[row + 1], CITIES[row + 1]))
    return Prompts(tuple(made), "text ICL", task="capital", task_words=("capital",))


def _input(item: int, example: int | None, seen: bool) -> Segment:
    if seen:
        return Segment("input", image=picture(item), example=example, query=example is None)
    return Segment("input", NAMES[item], example=example, query=example is None)


def plain(
    vlm: VLM, batch: Batch, write: tuple[int, torch.Tensor] | None = None, slot: str = "last", **options: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and block outputs of a plain forward, optionally with one block's slot overwritten.

    Options go to the model; with `logits_to_keep=1` Gemma 4 computes its upper layers for one token only, whose
    numbers differ by rounding from those of a forward that keeps all.
    """
    kept: list[torch.Tensor] = []
    back = batch.columns(slot) - batch.inputs["input_ids"].shape[1]

    def hook(layer: int) -> Any:
        def keep(_module: Any, _args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            if write is not None and layer == write[0]:
                hidden[torch.arange(len(hidden)), back] = write[1]
            kept.append(hidden.clone())
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return keep

    blocks = vlm.model.get_submodule(vlm.backbone.layers).children()
    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks)]
    try:
        with torch.no_grad():
            logits = vlm.model(**batch.inputs, use_cache=False, **options).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, kept


def own_encodings(vlm: VLM, prompt: Prompt) -> Iterator[dict[str, torch.Tensor]]:
    """What the processor itself makes of a prompt, in each of the forms in which processors take images."""
    tool, images = vlm.encoder.processor or vlm.encoder.tokenizer, [open_image(i) for i in prompt.images]
    if vlm.encoder.processor is None:
        yield dict(tool(prompt.text, return_tensors="pt"))
        return
    rest = iter(images)
    mark = vlm.encoder.placeholder or ""
    written = "".join(s.text if s.image is None else mark for s in prompt.segments)
    mixed = [s.text if s.image is None else next(rest) for s in prompt.segments]
    words = "".join(s.text for s in prompt.segments)
    for arguments in (
        {"text": [written], "images": [images] if images else None},
        {"text": [written], "images": images or None},
        {"text": [mixed]},
        {"text": [words], "images": images or None},
    ):
        for options in ({}, {"add_special_tokens": False}):
            try:
                made = tool(**arguments, **options, return_tensors="pt")
            except Exception:  # this processor takes them in another form
                continue
            yield {k: v for k, v in made.items() if isinstance(v, torch.Tensor) and k != "labels"}


def open_image(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.open(image)


def brute_force(
    vlm: VLM, prompts: Prompts, vectors: torch.Tensor, answers: torch.Tensor, slot: str = "last"
) -> torch.Tensor:
    """Log-probability of each answer, shape [set, layer, query]: one plain run per vector and layer."""
    batch = vlm.encode(prompts)
    rows = []
    for values in vectors:
        for layer, value in enumerate(values):
            logits, _ = plain(vlm, batch, (layer, value), slot)
            rows.append(logits[:, -1].log_softmax(-1).gather(-1, answers[:, None])[:, 0])
    return torch.stack(rows).reshape(*vectors.shape[:2], len(prompts))


def greedy(vlm: VLM, prompts: Prompts, write: tuple[int, torch.Tensor] | None, new: int) -> list[list[int]]:
    """Tokens that a model says one after the other, each with the block's token overwritten again.

    The model's own `generate` runs without a cache, under a hook that knows where the prompt ended; with one only where
    a random model says its image token, which cannot be read again without an image (a cache keeps the patch).
    """
    batch = vlm.encode(prompts)
    steps: list[int] = []
    cached = [False]

    def overwrite(_module: Any, _args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        # Counted from the end, because some models compute upper layers for the last tokens only.
        place = -1 - len(steps)
        steps.append(1)
        if write is not None and not (cached[0] and len(steps) > 1) and state.shape[1] >= -place:
            state[:, place] = write[1]
        return (state, *output[1:]) if isinstance(output, tuple) else state

    block = vlm.model.get_submodule(f"{vlm.backbone.layers}.{write[0] if write else 0}")
    handle = block.register_forward_hook(overwrite)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "return_dict_in_generate": True}
    try:
        with torch.no_grad():
            try:
                made = vlm.model.generate(**inputs, **options, max_new_tokens=new, output_logits=True, use_cache=False)
            except (ValueError, IndexError):
                steps.clear()
                cached[0] = True
                made = vlm.model.generate(**inputs, **options, max_new_tokens=new, output_logits=True)
    finally:
        handle.remove()
    return torch.stack([step.argmax(-1) for step in made.logits], 1).tolist()


def keep_last(vlm: VLM) -> dict[str, int]:
    return {"logits_to_keep": 1} if vlm.backbone.keeps_logits else {}


def family_vlm(family: Family) -> VLM:
    import xmi
    from tests.zoo.family import build

    model, tool = build(family.make)
    return xmi.load(model, processor=tool)
