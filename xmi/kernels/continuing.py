"""Continuing: further tokens of a prompt, and of its packed copies, from the keys and values that a forward left.

Attention is causal, so what a token's keys and values are does not depend on what comes after it: the first forward
keeps them, and every further token of the prompt and of all copies is one short forward. A patch is in the keys and
values that it led to, and need not be made again.

The cache is transformers' own, made without the configuration, so that layers with a sliding window keep everything:
copies stand behind the prompt, and what a token may see is said by its mask alone.
"""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.packing import OWN_RULES, positions_of
from xmi.kernels.residuals import at, score


def keeping(inputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a forward that keeps keys and values."""
    from transformers import DynamicCache

    return {**inputs, "past_key_values": DynamicCache(), "use_cache": True}


def last_told(args: tuple[Any, ...], kwargs: dict[str, Any], embed: Any) -> dict[str, Any]:
    """What a text decoder is told of the last token besides the token itself.

    Args:
        args: Positional arguments of the decoder (at most the input ids).
        kwargs: Its keyword arguments, before anything is packed.
        embed: The token embedding.

    Returns:
        `length` of the sequence, the last token's `positions` [..., row, 1], `dtype` of the residual stream, and
        `more`: arguments that have a row for every token, as masks of cross-attention have, by name.
    """
    embeds = kwargs.get("inputs_embeds")
    states = embeds if embeds is not None else embed(args[0] if args else kwargs["input_ids"])
    rows, length = states.shape[:2]
    more = {
        name: value[:, :, -1:].clone()
        for name, value in kwargs.items()
        if name not in OWN_RULES and isinstance(value, torch.Tensor)
        if value.dim() == 4 and value.shape[0] == rows and value.shape[2] == length
    }
    positions = positions_of(kwargs, states)[..., -1:]
    positions = positions.expand(*positions.shape[:-2], rows, 1).clone()
    return {"length": length, "positions": positions, "more": more, "dtype": states.dtype}


def fill_up(cache: Any, length: int, width: int, joined: list[int], copies: int) -> None:
    """Gives every layer the keys and values of copies that joined the sequence behind it: the prompt's end's.

    Args:
        cache: What a growing forward kept.
        length: Tokens of the prompt.
        width: Tokens of a copy.
        joined: How many copies had joined before each layer.
        copies: How many there are.

    Raises:
        ValueError: A layer keeps something else than each token's keys and values.
    """
    found = [layer.keys.shape[-2] for layer in cache.layers]
    if found != [length + count * width for count in joined]:
        raise ValueError("a layer keeps something else than every token's keys and values")
    for layer, count in zip(cache.layers, joined, strict=True):
        for name in ("keys", "values"):
            value = getattr(layer, name)
            end = value[..., length - width : length, :].repeat(1, 1, copies - count, 1)
            setattr(layer, name, torch.cat([value, end], -2))


def go_on(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    told: dict[str, Any],
    first: torch.Tensor,
    answers: torch.Tensor,
    width: int,
    new: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens after the first one, of the prompt and of its copies.

    Args:
        model: nnsight model.
        inputs: What the first forward took, with the cache of its keys and values: the prompt's, then every copy's.
        paths: `decoder`.
        told: What `last_told` found in it.
        first: The first token of the prompt and of every copy, shape [row, 1 + copies].
        answers: Any token of each row.
        width: Tokens of a copy.
        new: How many tokens in all.

    Returns:
        All tokens [row, 1 + copies, new], and log-probability (nats) of those after the first, [row, 1 + copies, new -
        1].

    Raises:
        ValueError: The decoder does not see the prompt's tokens one by one.
    """
    rows, count = first.shape
    positions, device = told["positions"], told["positions"].device
    seen = inputs.get("attention_mask")
    seen = (torch.ones(rows, told["length"]) if seen is None else seen).to(device)
    if tuple(seen.shape) != (rows, told["length"]):
        raise ValueError(f"the decoder sees {told['length']} tokens of a prompt of {seen.shape[1]}")
    said, sure = [first], []
    for step in range(1, new):
        seen = torch.cat([seen, seen.new_ones(rows, 1)], 1)
        given = {name: inputs[name] for name in ("past_key_values", "use_cache")}
        given["input_ids"] = said[-1].to(device)
        if "logits_to_keep" in inputs:
            given["logits_to_keep"] = count
        if count == 1:  # no copies: as the model's own `generate` does it, whatever attention the model uses
            given["attention_mask"] = seen
        with torch.no_grad(), model.trace(**given):
            decoder = at(model, paths["decoder"])
            args, kwargs = decoder.inputs
            more = {name: value.expand(-1, -1, count, -1) for name, value in told["more"].items()}
            kwargs = {**kwargs, **more, "position_ids": (positions + step).expand(*positions.shape[:-1], count)}
            if count > 1:
                row = next_sees(decoder._module.config, seen, told["dtype"])
                kwargs["attention_mask"] = for_copies(row, told["length"], width, count - 1, step, device)
            decoder.inputs = args, kwargs
            ids, _, _, certain = score(model.output.logits, answers, 1)
            ids, certain = save(ids[..., 0]), save(certain)
        said.append(ids)
        sure.append(certain)
    return torch.stack(said, 2), torch.stack(sure, 2)


def next_sees(config: Any, seen: torch.Tensor, dtype: torch.dtype) -> Any:
    """The mask of the last of some tokens, as the model would be given it in a plain forward.

    Args:
        config: The text configuration, from which masks are made per layer type.
        seen: Which tokens are real, shape [row, token].
        dtype: Of the residual stream.

    Returns:
        Mask [row, 1, 1, token], or None if it sees everything, or a dict of them per layer type.
    """
    from transformers import DynamicCache
    from transformers.masking_utils import create_masks_for_generate

    rows, length = seen.shape
    before = DynamicCache()
    nothing = torch.zeros(rows, 1, length - 1, 1, dtype=dtype, device=seen.device)
    before.update(nothing, nothing, 0)
    return create_masks_for_generate(config, nothing[:, 0, :1].expand(rows, 1, 1), seen, before, None)


def for_copies(mask: Any, length: int, width: int, copies: int, step: int, device: Any) -> Any:
    """The mask of the next token of a prompt and of its copies, whose keys and values stand in one row.

    In the row: the prompt, the copies of its end, and for every token since, the prompt's and each copy's. A copy's
    token sees what the prompt's sees: of the beginning there, of the end and of what came since its own.

    Args:
        mask: What the prompt's own next token sees of the `length + step` tokens; see `next_sees`.
        length: Tokens of the prompt.
        width: Tokens of a copy.
        copies: How many there are.
        step: How many tokens came since, the one that looks included.
        device: Where a mask is made that the model itself leaves out.

    Returns:
        Masks of the same kind, shape [row, 1, 1 + copies, length + copies * width + step * (1 + copies)].
    """
    if isinstance(mask, dict):
        return {key: for_copies(part, length, width, copies, step, device) for key, part in mask.items()}
    if mask is None:
        mask = torch.ones(1, 1, 1, length + step, dtype=torch.bool, device=device)
    if mask.dim() != 4 or tuple(mask.shape[-2:]) != (1, length + step):
        raise ValueError(f"expected a mask of {length + step} tokens, found {tuple(mask.shape)}")
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    mask = torch.cat([mask, mask.new_full((*mask.shape[:-1], 1), hidden)], -1)
    count, begin, packed = 1 + copies, length - width, length + copies * width
    # For each column the token that it stands for; `length + step` is none.
    columns = torch.full((count, packed + step * count), length + step)
    columns[:, :begin] = torch.arange(begin)
    columns[0, begin:length] = torch.arange(begin, length)
    every = torch.arange(count)
    columns[every[1:, None], length + (every[1:, None] - 1) * width + torch.arange(width)] = torch.arange(begin, length)
    for later in range(step):
        columns[every, packed + later * count + every] = length + later
    return mask[:, :, 0, columns.to(mask.device)]
