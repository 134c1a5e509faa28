"""Packing: many patched versions of a prompt's end in one forward.

Attention is causal and a patch changes only what comes after it, so the runs of N differently patched prompts share
everything before the patch. N copies of the prompt's end, from the patched token on, are appended at the end's own
positions; each sees the shared beginning and itself, and overwriting copy i's residual after its layer gives exactly
the logits of the run patched there. Patched at the last token, a copy is one token.

The packing happens at the inputs of the text decoder, after image features were merged, because only there are
embeddings, position ids (2-D, or 3-D for multimodal rotary positions) and masks final.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def pack_inputs(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    copies: int,
    width: int,
    config: Any,
    embed: Any,
    own: torch.Tensor | None = None,
    other: torch.Tensor | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turns a text decoder's call for T tokens into one for T + copies * width tokens.

    Args:
        args: Positional arguments of the decoder (at most the input ids).
        kwargs: Its keyword arguments.
        copies: How many copies of the end to append.
        width: How many tokens the end has.
        config: The text configuration, from which masks are made per layer type.
        embed: The token embedding.
        own: The last tokens of the prompt itself, shape [row, k], if the copies have others there.
        other: What each copy has in their place, shape [row, copies, k].

    Returns:
        The grown arguments.

    Raises:
        ValueError: The beginning attends to the end (attention is not causal), or the copies' own tokens cannot be
            embedded from outside of the model.
    """
    from transformers.masking_utils import create_masks_for_generate

    kwargs = dict(kwargs)
    ids = args[0] if args else kwargs.get("input_ids")
    embeds = kwargs.get("inputs_embeds")
    states = embeds if embeds is not None else embed(ids)
    length, device = states.shape[1], states.device
    positions, mask = positions_of(kwargs, states), kwargs.get("attention_mask")
    if not isinstance(mask, dict) and (mask is None or mask.dim() != 4):
        mask = create_masks_for_generate(config, states, mask, None, positions if positions.dim() == 2 else None)
    kwargs["attention_mask"] = pack_mask(mask, length, copies, width, device)
    kwargs["position_ids"] = repeat_end(positions, copies, width, -1)
    if embeds is not None:
        grown = repeat_end(embeds, copies, width, -2)
        if own is not None and other is not None:
            k = own.shape[1]
            if not torch.equal(embed(own.to(device)).to(embeds.dtype), embeds[:, -k:]):
                raise ValueError("the model changes embeddings on their way to its decoder")
            put(grown, length, width, embed(other.to(device)).to(embeds.dtype))
        kwargs["inputs_embeds"] = grown
    elif ids is not None:
        grown = repeat_end(ids, copies, width, -1)
        if other is not None:
            put(grown, length, width, other.to(device))
        if args:
            args = (grown, *args[1:])
        else:
            kwargs["input_ids"] = grown
    return args, {**kwargs, **pack_others(kwargs, states.shape[0], length, copies, width, other is not None)}


def pack_others(
    kwargs: dict[str, Any], rows: int, length: int, copies: int, width: int, changed: bool
) -> dict[str, torch.Tensor]:
    """Arguments without rules of their own that say something of every token, grown.

    Where images are, which they see, inputs per layer: they say the same of a copy as of the token copied.

    Args:
        kwargs: Keyword arguments of the decoder.
        rows: How many prompts there are.
        length: How many tokens each has.
        copies: How many copies of the end are appended.
        width: How many tokens the end has.
        changed: Whether copies have tokens of their own.

    Raises:
        ValueError: Copies have tokens of their own, and an argument is made from tokens.
    """
    found = {}
    for name, value in kwargs.items():
        if name in OWN_RULES or not isinstance(value, torch.Tensor):
            continue
        if value.dim() > 1 and tuple(value.shape[:2]) == (rows, length):
            if changed and value.is_floating_point():
                raise ValueError(f"the decoder's argument {name} is made from tokens")
            found[name] = repeat_end(value, copies, width, 1)
        elif value.dim() == 4 and value.shape[0] == rows and value.shape[2] == length:
            found[name] = repeat_end(value, copies, width, 2)
    return found


def positions_of(kwargs: dict[str, Any], states: torch.Tensor) -> torch.Tensor:
    """Position ids that a text decoder is given, or those that it counts itself from its mask: [..., row, token]."""
    given, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    if isinstance(given, torch.Tensor):
        return given
    real = torch.ones(states.shape[:2], device=states.device)
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        real = mask
    counted: torch.Tensor = (real.long().cumsum(-1) - 1).clamp(min=0)
    return counted


OWN_RULES = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
"""Arguments that have rules of their own."""


def put(grown: torch.Tensor, length: int, width: int, last: torch.Tensor) -> None:
    """Writes the last tokens of every copy, shape [row, copy, k, ...], into grown ids or embeddings."""
    for copy in range(last.shape[1]):
        end = length + (copy + 1) * width
        grown[:, end - last.shape[2] : end] = last[:, copy]


def repeat_end(value: torch.Tensor, copies: int, width: int, dim: int) -> torch.Tensor:
    """Appends the last `width` slices along a dimension `copies` times."""
    end = value.narrow(dim, value.shape[dim] - width, width)
    times = [1] * value.dim()
    times[dim] = copies
    return torch.cat([value, end.repeat(times)], dim=dim)


def pack_mask(mask: Any, length: int, copies: int, width: int, device: Any) -> Any:
    """The mask for a prompt of `length` tokens and copies of its last `width` ones.

    A copy's token sees what its original sees: of the beginning there, of the end in its own copy. No real token sees
    a copy.

    Args:
        mask: Boolean (True = may attend) or additive 4-D mask, a dict of them per layer type, or None for causal.
        length: Number of real tokens.
        copies: Number of copies.
        width: Tokens of a copy.
        device: Where to build a missing mask.

    Returns:
        The grown mask, of the same kind.

    Raises:
        ValueError: The beginning attends to the end: attention is not causal and packing would be wrong.
    """
    if isinstance(mask, dict):
        return {key: pack_mask(part, length, copies, width, device) for key, part in mask.items()}
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if mask.dim() != 4 or tuple(mask.shape[-2:]) != (length, length):
        raise ValueError(f"expected a mask of {length} x {length} tokens, found {tuple(mask.shape)}")
    boolean = mask.dtype == torch.bool
    allowed = mask if boolean else mask >= 0
    begin = length - width
    # Rows of padding attend to everything under sdpa; only rows that the last token itself sees are real.
    if begin and bool((allowed[:, :, :begin, begin:] & allowed[:, :, -1, :begin, None]).any()):
        raise ValueError("a token before the patched one attends to it: attention is not causal")
    total = length + copies * width
    grown = mask.new_full((*mask.shape[:2], total, total), False if boolean else torch.finfo(mask.dtype).min)
    grown[:, :, :length, :length] = mask
    end = mask[:, :, begin:]
    grown[:, :, length:, :begin] = end[:, :, None, :, :begin].expand(-1, -1, copies, -1, -1).flatten(2, 3)
    own = torch.arange(length, total, device=mask.device).reshape(copies, width)
    grown[:, :, own[:, :, None], own[:, None, :]] = end[:, :, None, :, begin:]
    return grown


def spare_copies(args: tuple[Any, ...], kwargs: dict[str, Any], copies: int, width: int, config: Any) -> int:
    """How many copies to pack beyond those wanted, so that no other dimension is as long as the packed sequence.

    They never join the sequence: `cut` takes them away again, and knows the sequence by its length.
    """
    first = args[0] if args else kwargs.get("inputs_embeds")
    rows, length = (first if first is not None else kwargs["input_ids"]).shape[:2]
    sizes = set(integers(config.to_dict()))
    taken = {rows, *sizes, *(rows * size for size in sizes)}
    spare = 0
    while length + (copies + spare) * width in taken:
        spare += 1
    return spare


def integers(value: Any) -> Iterator[int]:
    """All integers in nested containers."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from integers(part)


def cut(value: Any, total: int, size: int) -> Any:
    """Arguments of a block for a sequence of `total` tokens, cut to its first `size` ones in every dimension."""
    if isinstance(value, dict):
        return {name: cut(part, total, size) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(cut(part, total, size) for part in value)
    if isinstance(value, torch.Tensor):
        for dim, found in enumerate(value.shape):
            if found == total:
                value = value.narrow(dim, 0, size)
    return value
