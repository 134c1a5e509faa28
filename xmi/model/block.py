"""The parts of one block, found in its recorded call by what they compute."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from xmi.model.block_parts import (
    follows_activation,
    has_matrices,
    input_projections,
    is_activation,
    is_attention,
    is_within,
    letter_of,
    output_of,
    output_projection,
    source_of,
    wrapped_in,
)
from xmi.model.block_terms import Term, explain_parallel, explain_sum, find_middle
from xmi.model.call_recorder import Call
from xmi.model.hook_points import Point
from xmi.model.layer_sizes import largest

ATTENTION = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z")
MLP = ("mlp.hook_pre", "mlp.hook_post")
NEVER = "its block did not run in the self-check"


@dataclass
class Finding:
    """What was found in one block.

    Attributes:
        points: Its hooks.
        missing: Hooks it cannot have, by name within the block, with reasons.
        remarks: How it deviates from a plain sequential block.
        error: Largest error of `resid_mid = resid_pre + attn_out` and `resid_post = resid_mid + mlp_out` with the
            deviations applied, relative to the residual.
        attention: Path of the attention module within the model, if it is softmax attention.
        fused: Path of the projection that makes queries, keys and values at once, if there is one.
        entering: The residual before it.
        leaving: The residual after it.
    """

    points: list[Point] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    error: float = 0.0
    attention: str = ""
    fused: str = ""
    entering: torch.Tensor | None = None
    leaving: torch.Tensor | None = None


def judge(path: str, layer: int, block: Call, parts: list[Call], config: Any) -> Finding:
    """Finds the parts of one block.

    Args:
        path: The block's path within the model.
        layer: Its number.
        block: Its call.
        parts: The calls of everything in it, in the order of execution.
        config: The text configuration, for the width of a head.

    Returns:
        What was found.
    """
    finding = Finding(entering=block.entering, leaving=block.leaving)
    before, after = block.entering, block.leaving
    if before is None or after is None:
        finding.missing = {"hook_resid_pre": "the block takes or returns no tensor"}
        return finding
    prefix = f"blocks.{layer}."
    finding.points.append(Point(f"{prefix}hook_resid_pre", path, "input", block.argument))
    finding.points.append(Point(f"{prefix}hook_resid_post", path, "output", block.place))
    inner = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out", *ATTENTION, *MLP)
    if before.dim() != 3 or before.shape != after.shape:
        return _nothing(finding, inner, f"its residual stream has the shape {list(before.shape)} within blocks")
    for call in parts:
        call.unflatten(before.shape)
    path, block, parts = _unwrapped(finding, path, block, parts)
    after = output_of(block)
    children = [c for c in parts if c.direct and c.leaving is not None and c.leaving.shape == before.shape]
    if (middle := find_middle(before, parts)) is not None:
        reader, state = middle
        finding.points.append(_entering(f"{prefix}hook_resid_mid", path, reader, shared=True))
        attention, mlp = explain_sum(state, before, children), explain_sum(after, state, children)
    else:
        attention, mlp = explain_parallel(after, before, children)
        if attention is None or mlp is None:
            own = any(torch.equal(output_of(c), after) for c in children)
            said = "its parts add the residual stream themselves"
            return _nothing(finding, inner, said if own else "its output is not its input plus what its parts return")
        finding.missing["hook_resid_mid"] = "attention and MLP read the same input (parallel block)"
        finding.remarks.append("attention and MLP run in parallel: there is no resid_mid")
    for hook, term, hooks, find in (
        ("hook_attn_out", attention, ATTENTION, _attention),
        ("hook_mlp_out", mlp, MLP, _mlp),
    ):
        if term is None:
            short = hook.removeprefix("hook_")
            reason = f"what the block adds to the residual stream as {short} is not the output of a module"
            finding.missing |= dict.fromkeys((hook, *hooks), reason)
            finding.remarks.append(reason)
            continue
        finding.error = max(finding.error, term.error / (float(after.abs().max()) or 1.0))
        root = _added(finding, path, prefix, hook, term, children)
        find(finding, path, prefix, root, _inside(root, parts), config)
    return finding


def _added(finding: Finding, path: str, prefix: str, hook: str, term: Term, children: list[Call]) -> Call:
    """Notes the hook of what a part adds to the residual stream, and returns the call that it comes from."""
    finding.remarks += term.remarks(hook)
    finding.points.append(_leaving(prefix + hook, path, term.call))
    root = source_of(term.call, children)
    if not torch.equal(output_of(root), output_of(term.call)):
        finding.remarks.append(f"{hook} is read after {term.call.path}, a norm on what {root.path} returns")
    return root


def _unwrapped(finding: Finding, path: str, block: Call, parts: list[Call]) -> tuple[str, Call, list[Call]]:
    """The block itself, without wrappers around it: its path, its call and its parts."""
    while (held := _wrapped(block, parts)) is not None:
        path = f"{path}.{held.path}"
        added = ", ".join(c.path for c in parts if c.direct and c is not held)
        parts = [replace(c, path=c.path.removeprefix(f"{held.path}.")) for c in parts if is_within(c, held)]
        if not torch.equal(output_of(held), output_of(block)):
            finding.remarks.append(f"{added or 'its wrapper'} changes the residual stream after hook_mlp_out is added")
        block = held
    return path, block, parts


def _wrapped(block: Call, parts: list[Call]) -> Call | None:
    """The block in a wrapper around it: a part that reads what it reads, returns a residual, and is most of it.

    So does attention in a block without a norm before it; but only a block has attention and something beside it.
    """
    direct = [c for c in parts if c.direct]
    for held in wrapped_in(replace(block, path=""), direct):
        inner = [replace(c, path=c.path.removeprefix(f"{held.path}.")) for c in parts if is_within(c, held)]
        kinds = {is_attention(c) for c in inner if c.direct and has_matrices(c)}
        if len(kinds) == 2 or (len(direct) == 1 and torch.equal(output_of(held), output_of(block))):
            return held
    return None


def _inside(root: Call, parts: list[Call]) -> list[Call]:
    """The parts of attention or MLP; those of an MLP may stand in the block itself (OPT)."""
    apart = not any(is_within(c, root) for c in parts) or follows_activation(root, parts)
    return [c for c in parts if (c.direct if apart else is_within(c, root))]


def _nothing(finding: Finding, hooks: tuple[str, ...], reason: str) -> Finding:
    finding.missing = dict.fromkeys(hooks, reason)
    finding.remarks.append(reason)
    return finding


def _attention(finding: Finding, path: str, prefix: str, root: Call, inside: list[Call], config: Any) -> None:
    """Queries, keys, values and per-head outputs of an attention module, maybe inside of a wrapper."""
    able = [c for c in (root, *wrapped_in(root, inside)) if hasattr(c.module, "config") and is_attention(c)]
    if not able:
        reason = f"{root.path} is a {type(root.module).__name__}, not softmax attention"
        finding.missing |= dict.fromkeys(ATTENTION, reason)
        return
    core = next((c for c in able if output_projection(c, inside) is not None), able[0])
    finding.attention = f"{path}.{core.path}"
    width = head_width(core.module, config)
    output = output_projection(core, inside)
    heads = 0
    if output is not None and output.entering is not None and output.entering.shape[-1] % width == 0:
        heads = output.entering.shape[-1] // width
        finding.points.append(_entering(f"{prefix}attn.hook_z", path, output, heads=heads))
    else:
        finding.missing["attn.hook_z"] = "no module takes all heads' outputs and returns attention's"
    # What reads anything else (images, in cross-attention; queries, in a norm) projects something else.
    readers = input_projections(core, inside)
    fused = [c for c in readers if re.search("q.*k.*v|^c_attn$", c.name)]
    if fused:
        finding.fused = f"{path}.{fused[0].path}"
        reason = f"how {fused[0].name} holds queries, keys and values could not be determined"
        finding.missing |= dict.fromkeys((f"attn.hook_{x}" for x in "qkv"), reason)
        return
    for letter in "qkv":
        hook = f"attn.hook_{letter}"
        named = [c for c in readers if letter_of(c) == letter]
        if len(named) != 1:
            names = ", ".join(c.name for c in readers) or "none"
            finding.missing[hook] = f"no projection of the residual stream of its own (there is: {names})"
            continue
        size = int(output_of(named[0]).shape[-1])
        if (
            output_of(named[0]).dim() == 3
            and size % width == 0
            and (letter != "q" or not heads or size == heads * width)
        ):
            finding.points.append(_leaving(prefix + hook, path, named[0], heads=size // width))
        else:
            finding.missing[hook] = f"{named[0].name} returns {size} values, not {width} per head"


def _mlp(finding: Finding, path: str, prefix: str, root: Call, inside: list[Call], config: Any) -> None:
    """What enters and leaves the MLP's activation function; the MLP may be inside of a wrapper."""
    down = root if root in inside and has_matrices(root) else None  # its parts stand in the block itself (OPT)
    for core in (root, *wrapped_in(root, inside)):
        down = down or output_projection(core, inside)
    if down is None or down.entering is None or down.entering.dim() != 3:
        reason = f"{root.path} ({type(root.module).__name__}) is not a plain MLP"
        finding.missing |= dict.fromkeys(MLP, reason)
        return
    shape = down.entering.shape
    finding.points.append(_entering(f"{prefix}mlp.hook_post", path, down))
    acts = [c for c in inside if is_activation(c.module) and c.entering is not None and c.entering.shape == shape]
    # An activation inside of a projection, whose output it does not make, is an adapter's.
    linear = [c for c in inside if has_matrices(c) and (c is down or not is_within(down, c)) and c is not root]
    acts = [a for a in acts if not any(is_within(a, c) and not torch.equal(output_of(a), output_of(c)) for c in linear)]
    if len(acts) == 1:
        finding.points.append(_entering(f"{prefix}mlp.hook_pre", path, acts[0]))
    else:
        finding.missing["mlp.hook_pre"] = "its activation function is not a module"


def _entering(name: str, block: str, call: Call, **more: Any) -> Point:
    """The point of what goes into a part."""
    flat = block if call.argument in call.flat_inputs else None
    return Point(name, f"{block}.{call.path}", "input", call.argument, flat=flat, **more)


def _leaving(name: str, block: str, call: Call, **more: Any) -> Point:
    """The point of what comes out of a part."""
    flat = block if call.place in call.flat_outputs else None
    return Point(name, f"{block}.{call.path}", "output", call.place, flat=flat, **more)


def head_width(module: torch.nn.Module, config: Any) -> int:
    """How many values a head has."""
    own = getattr(module, "head_dim", None) or largest(config, "head_dim", 0)
    return int(own or config.hidden_size // largest(config, "num_attention_heads", 1))
