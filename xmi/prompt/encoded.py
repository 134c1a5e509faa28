"""Inputs that a user encoded with the model's own processor or tokenizer, as a batch that knows what can be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from xmi.errors import PromptError
from xmi.prompt.prompt import Prompt, Segment
from xmi.prompt.token_roles import PADDING, SPECIAL

PICTURE = "(an image of encoded inputs)"
"""What stands for an image of which only the model's inputs are known."""


@dataclass(frozen=True)
class EncodedPrompt(Prompt):
    """A row of encoded inputs.

    Attributes:
        ids: Its tokens, without padding.
    """

    ids: tuple[int, ...] = ()


def as_tensors(given: Mapping[str, Any] | torch.Tensor | np.ndarray, pad: int | None) -> dict[str, torch.Tensor]:
    """Encoded inputs as tensors, with a mask.

    Args:
        given: Tensors, arrays or lists by name, of which `input_ids` is one; or these ids alone.
        pad: The id of the padding token.

    Raises:
        PromptError: Something that is not made of numbers, of another shape than the ids, or without any token; or
            padding without a mask that says where it is.
    """
    if not isinstance(given, Mapping):
        given = {"input_ids": given}
    found = {
        name: _tensor(name, value, pad if name == "input_ids" and pad is not None else 0)
        for name, value in given.items()
        if value is not None and name != "labels"
    }
    ids = found.get("input_ids", torch.tensor([]))
    if ids.dim() == 1:
        found = {
            n: v[None] if str(n).endswith(("_ids", "_mask")) and v.shape == ids.shape else v for n, v in found.items()
        }
        ids = ids[None]
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool or not ids.numel():
        raise PromptError(f"input_ids must be whole numbers [row, token], found {ids.dtype} {list(ids.shape)}.")
    found["input_ids"] = ids = ids.long()
    mask = found.get("attention_mask")
    if mask is None:
        lists = given["input_ids"]
        lengths = [len(row) for row in lists] if isinstance(lists, list) and isinstance(lists[0], list) else []
        if lengths:
            mask = torch.tensor([[1] * n + [0] * (ids.shape[1] - n) for n in lengths])
        elif pad is not None and bool((ids[:, [0, -1]] == pad).any()):
            raise PromptError("input_ids begin or end with padding: give the attention_mask that says what is padding.")
        else:
            mask = torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise PromptError(
            f"attention_mask is {list(mask.shape)}, input_ids are {list(ids.shape)}: one number per token."
        )
    found["attention_mask"] = (mask > 0).long()
    if empty := (~(mask > 0).any(1)).nonzero().flatten().tolist():
        raise PromptError(f"Row(s) {empty} of the encoded inputs have no token that is not padding.")
    return found


def _tensor(name: str, value: Any, fill: int) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(value))
    rows = value if isinstance(value, (list, tuple)) else None
    if rows and all(type(n) is int for n in rows):
        return torch.tensor(rows)
    if rows and all(isinstance(row, (list, tuple)) and all(type(n) is int for n in row) for row in rows):
        width = max(len(row) for row in rows)
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long)
    raise PromptError(
        f"{name} of the encoded inputs is {type(value).__name__} {value!r:.60}, not numbers in a tensor: call the "
        "processor with return_tensors='pt', padding=True and without other options."
    )


def rows_of(
    inputs: Mapping[str, torch.Tensor], tokenizer: Any, image_id: int | None
) -> tuple[tuple[EncodedPrompt, ...], Int[np.ndarray, "row column"]]:
    """What the rows are: text, and images where their token shows them, without any labels.

    Args:
        inputs: What `as_tensors` gave.
        tokenizer: The tokenizer.
        image_id: The token that stands for a piece of an image.

    Returns:
        A prompt for each row, and the number of the segment in which each token stands.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"] > 0
    first = np.full(tuple(ids.shape), PADDING)
    rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    added = frozenset(tokenizer.added_tokens_decoder)
    seen = {i for row in rows for i in row if i >= 0} if any(image_id in row for row in rows) else set()
    blank = frozenset(i for i in seen if not str(tokenizer.decode([i])).strip())
    ways = ((frozenset[int](), frozenset[int]()), (added, frozenset[int]()), (added, blank))
    cuts = [[_image_runs(row, image_id, *way) for row in rows] for way in ways]
    known = [len(inputs[n]) for n in ("image_grid_thw", "image_grid_hws", "image_sizes") if n in inputs]
    chosen = next((cut for cut in cuts if sum(map(len, cut)) in known), cuts[-1])
    prompts = []
    for row, (tokens, images) in enumerate(zip(rows, chosen, strict=True)):
        kinds: list[int] = [0] * len(tokens)
        for number, (start, stop) in enumerate(images, 1):
            kinds[start:stop] = [number] * (stop - start)
        numbers, segments, at = [], [], 0
        if tokens[0] == tokenizer.bos_token_id and len(tokens) > 1:
            numbers, at = [SPECIAL], 1
        for image, run in groupby(kinds[at:]):
            length = len(list(run))
            text = "" if image else _text(tokenizer, tokens[at : at + length])
            segments.append(Segment("input", image=PICTURE) if image else Segment("text", text))
            numbers += [len(segments) - 1] * length
            at += length
        first[row, mask[row].numpy()] = numbers
        prompts.append(EncodedPrompt(tuple(segments), ids=tuple(tokens)))
    return tuple(prompts), first


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode([i for i in ids if i >= 0]))


def _image_runs(
    ids: Sequence[int], image_id: int | None, added: frozenset[int], blank: frozenset[int]
) -> list[tuple[int, int]]:
    """Stretches of images' tokens: tiles and rows of one image are parted by added tokens, perhaps among blanks."""
    found: list[tuple[int, int]] = []
    for i in (i for i, token in enumerate(ids) if token == image_id):
        gap = ids[found[-1][1] : i] if found else [-1]
        if found and (not gap or (all(g in added | blank for g in gap) and any(g in added for g in gap))):
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found
