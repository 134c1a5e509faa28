"""The packed layer sweep: every vector at every layer, and the clean run, in one forward per new token."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.continuing import fill_up, go_on, keeping, last_told
from xmi.kernels.inputs import grown, place
from xmi.kernels.packing import cut, pack_inputs, spare_copies
from xmi.kernels.residuals import at, hidden, score


def sweep_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    vectors: torch.Tensor,
    layers: list[int],
    slots: torch.Tensor,
    answers: torch.Tensor,
    mode: str,
    strength: float,
    new: int,
    keeps_logits: bool,
    growing: bool,
    cached: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patches vectors at a slot after each layer and continues greedily, one forward per new token.

    With a cache, every forward after the first has one token of the prompt and of each copy. Without one, each copy is
    patched again in every forward and carries what it said so far.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, rows padded on the left.
        paths: `decoder`, `layers`, `n_layers`.
        vectors: What to write, shape [set, len(layers), d_model].
        layers: After which blocks.
        slots: The slot's column in each row, counted from the prompt's end (-1 is its last token), shape [row].
        answers: Id of each row's answer token, shape [row].
        mode: See `swept`.
        strength: See `swept`.
        new: How many tokens.
        keeps_logits: Whether the model takes `logits_to_keep`.
        growing: See `swept`; continued copies have tokens of their own and do not grow.
        cached: Whether tokens after the first are read from kept keys and values.

    Returns:
        Ids [row, 1 + set * layer, new], log-probability (nats) and rank of the answer as the first [row, 1 + set *
        layer], and log-probability of each token [row, 1 + set * layer, new]; entry 0 is the clean run, entry 1 + s *
        len(layers) + i is set s patched after layers[i].
    """
    inputs = place(model, inputs)
    if cached and new > 1:
        fixed = vectors, layers, slots, answers, mode, strength, new, keeps_logits, growing
        return from_cache(model, inputs, paths, *fixed)
    copies = vectors.shape[0] * vectors.shape[1]
    written: list[torch.Tensor] = []
    first: list[torch.Tensor] = []
    sure: list[torch.Tensor] = []
    for step in range(new):
        width = -int(slots.min()) + step
        said = torch.cat(written, 2) if written else None
        given = inputs if said is None else grown(inputs, said[:, 0])
        given = {**given, **keep_ends(given, copies, width, keeps_logits)}
        own, other = (None, None) if said is None else (said[:, 0], said[:, 1:])
        ids, log_probability, rank, certain, *_ = swept(
            model, given, paths, vectors, layers, slots - step, width, answers, 1, mode, strength, own, other, [],
            growing and said is None,
        )  # fmt: skip
        first = first or [log_probability, rank]
        written.append(ids)
        sure.append(certain)
    return torch.cat(written, 2), first[0], first[1], torch.stack(sure, 2)


def from_cache(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    vectors: torch.Tensor,
    layers: list[int],
    slots: torch.Tensor,
    answers: torch.Tensor,
    mode: str,
    strength: float,
    new: int,
    keeps_logits: bool,
    growing: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `sweep_kernel` returns, with tokens after the first read from kept keys and values."""
    sets, copies, width = len(vectors), vectors.shape[0] * vectors.shape[1], -int(slots.min())
    given = keeping({**inputs, **keep_ends(inputs, copies, width, keeps_logits)})
    ids, log_probability, rank, certain, _, told = swept(
        model, given, paths, vectors, layers, slots, width, answers, 1, mode, strength, None, None, [], growing
    )
    if growing:
        joined = [sets * sum(other < layer for other in layers) for layer in range(int(paths["n_layers"]))]
        fill_up(given["past_key_values"], told["length"], width, joined, copies)
    # The cache holds the clean run and then the copies, in the order of `joining`.
    entries = torch.cat([torch.zeros(1, dtype=torch.long), 1 + joining(layers, sets)])
    said, sure = go_on(model, given, paths, told, ids[:, entries.argsort(), 0], answers, width, new)
    return said[:, entries], log_probability, rank, torch.cat([certain[..., None], sure[:, entries]], 2)


def keep_ends(inputs: dict[str, Any], copies: int, width: int, keeps_logits: bool) -> dict[str, Any]:
    """The argument by which a model keeps the logits of the prompt's last token and of every copy's, if it has one."""
    if not keeps_logits:
        return {}
    ends = torch.arange(copies + 1, device=inputs["input_ids"].device) * width - copies * width - 1
    return {"logits_to_keep": copies + 1 if width == 1 else ends}


def joining(layers: list[int], sets: int) -> torch.Tensor:
    """The place of each entry's copy: they stand in the order in which they join (by layer, then set)."""
    turn = torch.tensor(layers).argsort().argsort()
    return (turn[None, :] * sets + torch.arange(sets)[:, None]).flatten()


def swept(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    vectors: torch.Tensor,
    layers: list[int],
    slots: torch.Tensor,
    width: int,
    answers: torch.Tensor,
    k: int,
    mode: str,
    strength: float,
    own: torch.Tensor | None,
    other: torch.Tensor | None,
    keep: list[int],
    growing: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Patches vectors at a slot after each layer, one copy of the prompt's end per vector and layer.

    Until it is patched, a copy is nothing but the prompt's end once more. A growing sweep therefore lets it join the
    sequence behind the layer after which it is patched; masks and positions are made for all copies beforehand and cut
    to those that have joined.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, rows padded on the left; `logits_to_keep` must keep the last token of
            the prompt and of every copy, in this order. A cache among it keeps keys and values, of a growing sweep's
            copies from the layer on at which they join.
        paths: `decoder`, `layers`.
        vectors: What to write, shape [set, len(layers), d_model].
        layers: After which blocks.
        slots: The slot's column in each row, counted from the prompt's end (-1 is its last token), shape [row].
        width: Tokens of a copy; it must reach back to the earliest slot.
        answers: Id of each row's answer token, shape [row].
        k: How many top tokens to return.
        mode: `overwrite`, `add` (residual + strength * vector) or `interpolate` ((1 - strength) * residual + strength *
            vector).
        strength: See `mode`.
        own: The prompt's last tokens [row, n], if copies have others there (continuations).
        other: Those of the copies [row, copies, n].
        keep: After which blocks to return the residual of every copy's last token.
        growing: Whether copies join late; only for blocks that are touched by nothing outside of them, and copies that
            have no tokens of their own.

    Returns:
        Top ids [row, 1 + set * layer, k], log-probability (nats) and rank of the answer and log-probability of the top
        token [row, 1 + set * layer], residuals [row, 1 + set * layer, len(keep), d_model] (entry 0 is the clean run,
        entry 1 + s * len(layers) + i is set s patched after layers[i]), and what `last_told` finds.
    """
    sets, copies, turn = len(vectors), vectors.shape[0] * vectors.shape[1], sorted(layers)
    order = joining(layers, sets)
    with torch.no_grad(), model.trace(**inputs):
        other = None if other is None else other[:, order.argsort()]
        total, spare, told = pack(at(model, paths["decoder"]), copies, width, own, other, growing)
        joined, kept, touched = (0 if growing else copies), [], sorted({*layers, *keep})  # in the order of execution
        for layer in range(int(paths["n_layers"]) if spare else touched[-1] + 1) if growing else touched:
            block = at(model, paths["layers"])[layer]
            if growing:
                block.inputs = cut(block.inputs, total, total - (copies + spare - joined) * width)
            if layer not in layers and layer not in keep:
                continue
            state = hidden(block.output)
            length = state.shape[1] - joined * width
            if layer in layers:
                if growing:
                    state = torch.cat([state, state[:, length - width : length].repeat(1, sets, 1)], 1)
                    joined += sets
                ends = length + (torch.arange(sets) + turn.index(layer) * sets + 1) * width
                write(state, vectors[:, layers.index(layer)], ends + slots[:, None], mode, strength)
                if growing:
                    block.output = (state, *block.output[1:]) if isinstance(block.output, tuple) else state
            if layer in keep:
                kept.append(state[:, ends_of(length, order, joined, width)].float().cpu())
        entries = [0, *(order + 1).tolist()]
        scored = save(tuple(v[:, entries] for v in score(at_ends(model.output.logits, copies, width), answers, k)))
        residuals = save(torch.stack(kept, 2) if kept else torch.zeros(len(slots), copies + 1, 0, 0))
    return *scored, residuals, told


def pack(
    decoder: Any, copies: int, width: int, own: torch.Tensor | None, other: torch.Tensor | None, growing: bool
) -> tuple[int, int, dict[str, Any]]:
    """Packs copies into the inputs of a text decoder, inside a trace.

    Returns:
        The packed tokens, how many copies of them are spare (see `spare_copies`), and what `last_told` finds.
    """
    args, kwargs = decoder.inputs
    config, embed = decoder._module.config, decoder._module.get_input_embeddings()
    told = save(last_told(args, kwargs, embed))
    spare = spare_copies(args, kwargs, copies, width, config) if growing else 0
    args, kwargs = pack_inputs(args, kwargs, copies + spare, width, config, embed, own, other)
    decoder.inputs = args, kwargs
    return kwargs["position_ids"].shape[-1], spare, told


def at_ends(logits: torch.Tensor, copies: int, width: int) -> torch.Tensor:
    """Of the logits of all tokens those that `keep_ends` asks for, which may be all that there are."""
    if logits.shape[1] == copies + 1:
        return logits
    return logits[:, torch.arange(-copies - 1, 0) * width + width - 1]


def write(state: torch.Tensor, vectors: torch.Tensor, columns: torch.Tensor, mode: str, strength: float) -> None:
    """Writes vectors [set, d_model] into a residual, in place: one at each of a row's columns [row, set]."""
    rows = torch.arange(len(columns))[:, None]
    new = vectors.to(state.device, state.dtype)
    state[rows, columns] = blend(state[rows, columns], new, mode, strength)


def ends_of(length: int, order: torch.Tensor, joined: int, width: int) -> list[int]:
    """Columns of the prompt's last token and of every copy's; a copy that has not joined is the prompt's end."""
    last = torch.where(order < joined, length + (order + 1) * width - 1, length - 1)
    return [length - 1, *last.tolist()]


def rows_kernel(
    model: Any,
    inputs: dict[str, Any],
    paths: dict[str, str],
    vectors: torch.Tensor,
    layers: list[int],
    entries: list[list[int]],
    slots: torch.Tensor,
    answers: torch.Tensor,
    mode: str,
    strength: float,
    new: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same as `sweep_kernel` with a row for each patched run, which any model computes rightly.

    Args:
        model: nnsight model.
        inputs: One prompt, encoded as often as there are runs.
        paths: `layers`.
        vectors: What to write, shape [set, len(layers), d_model].
        layers: After which blocks.
        entries: For each row the set and the place in `layers` of what is written, or nothing.
        slots: The slot's column in each row, counted from the end.
        answers: Id of each row's answer token.
        mode: See `swept`.
        strength: See `swept`.
        new: How many tokens.

    Returns:
        Ids [row, new], log-probability (nats) and rank of the answer as the first [row], and log-probability of each
        token [row, new].
    """
    inputs = place(model, inputs)
    said, sure = torch.zeros(len(entries), 0, dtype=torch.long), torch.zeros(len(entries), 0)
    first: list[torch.Tensor] = []
    for step in range(new):
        given = grown(inputs, said) if step else inputs
        with torch.no_grad(), model.trace(**given):
            for number in sorted(range(len(layers)), key=lambda i: layers[i]):
                mine = [row for row, entry in enumerate(entries) if entry and entry[1] == number]
                if not mine:
                    continue
                output = at(model, paths["layers"])[layers[number]].output
                state = hidden(output)
                values = torch.stack([vectors[entries[row][0], number] for row in mine])
                columns = slots[mine] - step
                state[mine, columns] = blend(state[mine, columns], values.to(state), mode, strength)
            ids, log_probability, rank, certain = save(score(model.output.logits[:, -1:], answers, 1))
        said, sure = torch.cat([said, ids[:, 0]], 1), torch.cat([sure, certain], 1)
        first = first or [log_probability[:, 0], rank[:, 0]]
    return said, first[0], first[1], sure


def blend(old: torch.Tensor, new: torch.Tensor, mode: str, strength: float) -> torch.Tensor:
    """What takes the residual's place: `new`, or with `add` and `interpolate` a mixture of both."""
    if mode == "add":
        return old + strength * new
    if mode == "interpolate":
        return (1 - strength) * old + strength * new
    return new
