"""Packing: many patched versions of a prompt's last token in one forward.

Attention is causal and a patch touches only the last token, so the runs of N differently patched prompts share
everything before it. N copies of the last token are appended at its own position; each sees the prefix and itself,
and overwriting copy i's residual after its layer gives exactly the logits of the run patched there.

The packing happens at the inputs of the text decoder, after image features were merged, because only there are
embeddings, position ids (2-D, or 3-D for multimodal rotary positions) and masks final.
"""

from __future__ import annotations

from typing import Any

import torch


def pack_inputs(
    args: tuple[Any, ...], kwargs: dict[str, Any], copies: int, config: Any, embed: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turns a text decoder's call for T tokens into one for T + copies tokens.

    Args:
        args: Positional arguments of the decoder (at most the input ids).
        kwargs: Its keyword arguments.
        copies: How many copies of the last token to append.
        config: The text configuration, from which masks are made per layer type.
        embed: The token embedding, used to size the masks if only ids are given.

    Returns:
        The grown arguments.

    Raises:
        ValueError: A token before the last one attends to the last token: attention is not causal.
    """
    from transformers.masking_utils import create_masks_for_generate

    kwargs = dict(kwargs)
    ids = args[0] if args else kwargs.get("input_ids")
    embeds = kwargs.get("inputs_embeds")
    states = embeds if embeds is not None else embed(ids)
    length, device = states.shape[1], states.device
    positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
    if positions is None:
        seen = torch.ones(states.shape[:2], device=device) if mask is None or isinstance(mask, dict) else mask
        seen = seen if seen.dim() == 2 else torch.ones(states.shape[:2], device=device)
        positions = (seen.long().cumsum(-1) - 1).clamp(min=0)
    if not isinstance(mask, dict) and (mask is None or mask.dim() != 4):
        flat = positions if positions is not None and positions.dim() == 2 else None
        mask = create_masks_for_generate(config, states, mask, None, flat)
    kwargs["attention_mask"] = pack_mask(mask, length, copies, device)
    kwargs["position_ids"] = repeat_last(positions, copies, -1)
    if embeds is not None:
        kwargs["inputs_embeds"] = repeat_last(embeds, copies, -2)
    elif args:
        args = (repeat_last(ids, copies, -1), *args[1:])
    else:
        kwargs["input_ids"] = repeat_last(ids, copies, -1)
    for name, value in kwargs.items():
        if name in ("attention_mask", "position_ids", "inputs_embeds", "input_ids") or not isinstance(
            value, torch.Tensor
        ):
            continue
        # Whatever else says something of every token (where images are, which they see, inputs per layer) says the
        # same of a copy as of the last token.
        if value.dim() > 1 and tuple(value.shape[:2]) == tuple(states.shape[:2]):
            kwargs[name] = repeat_last(value, copies, 1)
        elif value.dim() == 4 and value.shape[0] == states.shape[0] and value.shape[2] == length:
            kwargs[name] = repeat_last(value, copies, 2)
    return args, kwargs


_OWN = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
"""Arguments that have rules of their own."""


def repeat_last(value: Any, count: int, dim: int) -> Any:
    """Appends the last slice along a dimension `count` times, in tensors and in containers of them."""
    if isinstance(value, torch.Tensor):
        last = value.narrow(dim, value.shape[dim] - 1, 1)
        shape = list(value.shape)
        shape[dim] = count
        return torch.cat([value, last.expand(shape)], dim=dim)
    if isinstance(value, dict):
        return {key: repeat_last(part, count, dim) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(repeat_last(part, count, dim) for part in value)
    return value


def pack_mask(mask: Any, length: int, copies: int, device: Any) -> Any:
    """The mask for a prefix of `length` tokens and copies of its last one.

    A copy's row is the last token's row on the columns before it, plus the copy itself; no real token sees a copy.

    Args:
        mask: Boolean (True = may attend) or additive 4-D mask, a dict of them per layer type, or None for causal.
        length: Number of real tokens.
        copies: Number of copies.
        device: Where to build a missing mask.

    Returns:
        The grown mask, of the same kind.

    Raises:
        ValueError: A real token attends to the last one: attention is not causal and packing would be wrong.
    """
    if isinstance(mask, dict):
        return {key: pack_mask(part, length, copies, device) for key, part in mask.items()}
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if tuple(mask.shape[-2:]) != (length, length):
        raise ValueError(f"Expected a mask of {length} x {length} tokens, found {tuple(mask.shape)}.")
    boolean = mask.dtype == torch.bool
    closed, opened = (False, True) if boolean else (torch.finfo(mask.dtype).min, 0.0)
    allowed = mask if boolean else mask >= 0
    # Rows of padding attend to everything under sdpa; only rows that the last token itself sees are real.
    if length > 1 and bool((allowed[:, :, :-1, -1] & allowed[:, :, -1, :-1]).any()):
        raise ValueError("a token before the last attends to it: attention is not causal")
    grown = mask.new_full((*mask.shape[:2], length + copies, length + copies), closed)
    grown[:, :, :length, :length] = mask
    grown[:, :, length:, : length - 1] = mask[:, :, length - 1 : length, : length - 1]
    diagonal = torch.arange(length, length + copies, device=mask.device)
    grown[:, :, diagonal, diagonal] = opened
    return grown
