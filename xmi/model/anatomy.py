"""What a block is made of, measured on the block itself.

No table says where a family keeps its attention or whether it normalises before or after. One forward is recorded,
and the parts are found by what they compute: the middle of the residual stream is the one tensor that a part of the
block reads and no part made; what attention adds is the part whose output is the difference; per-head outputs enter
the module whose output is attention's. So every name is proven by an identity that held on this model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from xmi.model.attention import find_fused, find_patterns
from xmi.model.backbone import Backbone
from xmi.model.block import NEVER, Finding, judge
from xmi.model.call_recorder import Call, record
from xmi.model.hook_points import BLOCK_HOOKS, Point, sort_names
from xmi.shown import Shown


@dataclass(frozen=True)
class Anatomy(Shown):
    """The hook points of a model and what is unusual about it.

    Attributes:
        points: Where each hook sits, by full name, in the order of execution.
        missing: Hooks that this model cannot have, by name within a block (`attn.hook_q`) or full name; with reasons.
        deviations: What differs from `resid_mid = resid_pre + attn_out`, `resid_post = resid_mid + mlp_out`,
            `resid_pre[l + 1] = resid_post[l]`, `resid_pre[0] = embed`, one statement each.
        bookkeeping: Largest error of these identities with the deviations applied, relative to the residual; NaN
            if unknown.
        conditional: Blocks that run only with an image.
    """

    points: dict[str, Point]
    missing: dict[str, str]
    deviations: tuple[str, ...]
    bookkeeping: float
    conditional: tuple[int, ...] = ()


def dissect(model: torch.nn.Module, backbone: Backbone, probes: Sequence[Callable[[], Any]]) -> Anatomy:
    """Finds the hook points of every block.

    Args:
        model: The model, with weights.
        backbone: Where its language backbone is.
        probes: Forwards to record, each run once; together they should run every block (some are skipped without an
            image). A block is judged by the first probe that runs it.

    Returns:
        Points, what is missing, and the deviations.
    """
    found: dict[int, Finding] = {}
    streams: list[dict[int, Finding]] = []
    outer: list[Point] = []
    remarks: list[str] = []
    for probe in probes:
        stream, calls = _record(model, backbone, probe)
        streams.append(stream)
        points, said = _outer(calls, backbone, stream)
        outer, remarks = points or outer, remarks + said
        for layer, finding in stream.items():
            found.setdefault(layer, finding)
    patterns, unseen = find_patterns(model, backbone, found, probes)
    fused = find_fused(model, backbone, found, probes)
    points = [*outer, *patterns, *fused, *(p for f in found.values() for p in f.points)]
    by_name = {p.name: p for p in points}
    missing = {f"blocks.{i}.{hook}": why for i, f in found.items() for hook, why in f.missing.items()} | unseen
    never = [layer for layer in range(backbone.n_layers) if layer not in found]
    missing |= {f"blocks.{layer}.{hook}": NEVER for layer in never for hook in BLOCK_HOOKS}
    skipped = tuple(i for i in range(backbone.n_layers) if any(i not in s for s in streams))
    if skipped:
        remarks.append(f"layers {ranges(skipped)} run only with an image")
    remarks += [r for stream in streams for r in _between(stream)]
    remarks += _summary({layer: f.remarks for layer, f in found.items()}, backbone.n_layers)
    return Anatomy(
        points={name: by_name[name] for name in sort_names(by_name, backbone.n_layers)},
        missing={name: why for name, why in missing.items() if name not in by_name},
        deviations=tuple(dict.fromkeys(remarks)),
        bookkeeping=max((f.error for f in found.values()), default=0.0),
        conditional=skipped,
    )


def _record(
    model: torch.nn.Module, backbone: Backbone, probe: Callable[[], Any]
) -> tuple[dict[int, Finding], dict[str, Call]]:
    """Runs a probe; what was found in each block that ran, and the calls of decoder, embedding and final norm."""
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    blocks = {f"{backbone.layers}.{i}": i for i in range(backbone.n_layers)}
    watched = dict.fromkeys((backbone.decoder, backbone.embed, backbone.norm), "own") | dict.fromkeys(blocks, "all")
    stream: dict[int, Finding] = {}
    calls: dict[str, Call] = {}

    def done(path: str, call: Call, parts: list[Call]) -> None:
        if path in blocks:
            stream[blocks[path]] = judge(path, blocks[path], call, parts, config)
        else:
            calls[path] = call

    record(model, watched, probe, done)
    return stream, calls


def _outer(calls: dict[str, Call], backbone: Backbone, stream: dict[int, Finding]) -> tuple[list[Point], list[str]]:
    """The embedding that enters the decoder, and the final norm."""
    points, remarks = [], []
    decoder, embed, norm = (calls.get(p) for p in (backbone.decoder, backbone.embed, backbone.norm))
    if norm is not None:
        points.append(Point("ln_final.hook_normalized", backbone.norm, "output", norm.place))
    state = None
    if decoder is not None and "inputs_embeds" in decoder.inputs:
        state = decoder.inputs["inputs_embeds"]
        points.append(Point("hook_embed", backbone.decoder, "input", "inputs_embeds"))
    elif embed is not None and embed.leaving is not None:
        state = embed.leaving
        points.append(Point("hook_embed", backbone.embed, "output", embed.place))
    entering = stream[0].entering if 0 in stream else None
    if (
        state is not None
        and entering is not None
        and state.shape == entering.shape
        and not torch.equal(state, entering)
    ):
        factor = float((state.double() * entering).sum() / (state.double() ** 2).sum().clamp(min=1e-12))
        gap = (state.double() * factor - entering).abs()
        plain = bool((gap <= 2 * torch.finfo(state.dtype).eps * entering.abs()).all())
        said = f"resid_pre of layer 0 is hook_embed times {factor:.3g}"
        remarks.append(
            said if plain else "resid_pre of layer 0 is not hook_embed alone (positions or a norm come between)"
        )
    return points, remarks


def _between(stream: dict[int, Finding]) -> list[str]:
    """Says after which layers something is added before the next block reads the residual stream."""
    added = []
    for one, two in pairwise(sorted(stream)):
        left, right = stream[one].leaving, stream[two].entering
        if left is None or right is None or left.shape != right.shape:
            continue
        if not torch.equal(left, right.to(left.device)):
            added.append(one)
    if not added:
        return []
    return [
        f"the residual stream changes between blocks, after layers {ranges(added)} (image features are added there, by "
        "deepstack or by cross-attention); resid_pre of the next layer holds the change, resid_post does not"
    ]


def _summary(said: dict[int, list[str]], n_layers: int) -> list[str]:
    """One line per remark, naming the layers if not all."""
    layers: dict[str, list[int]] = {}
    for layer, remarks in said.items():
        for remark in remarks:
            layers.setdefault(remark, []).append(layer)
    return [r if len(w) == n_layers else f"layers {ranges(w)}: {r}" for r, w in layers.items()]


def ranges(layers: Sequence[int]) -> str:
    """`0-3, 5` from [0, 1, 2, 3, 5]."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
