"""The parts of one block, found in its recorded call by what they compute."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import torch

from xmi.model.call_recorder import Call
from xmi.model.hook_points import Point

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
    while (held := _wrapped(block, parts)) is not None:
        path = f"{path}.{held.path}"
        added = ", ".join(c.path for c in parts if c.direct and c is not held)
        parts = [replace(c, path=c.path.removeprefix(f"{held.path}.")) for c in parts if _within(c, held)]
        if not torch.equal(_value(held), _value(block)):
            finding.remarks.append(f"{added or 'its wrapper'} changes the residual stream after hook_mlp_out is added")
        block, after = held, _value(held)
    children = [c for c in parts if c.direct and c.leaving is not None and c.leaving.shape == before.shape]
    if (middle := _middle(before, parts)) is not None:
        reader, state = middle
        finding.points.append(_entering(f"{prefix}hook_resid_mid", path, reader, shared=True))
        attention, mlp = _explain(state, before, children), _explain(after, state, children)
    else:
        attention, mlp = _parallel(after, before, children)
        if attention is None or mlp is None:
            own = any(torch.equal(_value(c), after) for c in children)
            said = "its parts add the residual stream themselves"
            return _nothing(finding, inner, said if own else "its output is not its input plus what its parts return")
        finding.missing["hook_resid_mid"] = "attention and MLP read the same input (parallel block)"
        finding.remarks.append("attention and MLP run in parallel: there is no resid_mid")
    for hook, term, hooks, find in (
        ("hook_attn_out", attention, ATTENTION, _attention),
        ("hook_mlp_out", mlp, MLP, _mlp),
    ):
        if term is None:
            reason = f"what the block adds to the residual stream as {hook.removeprefix('hook_')} is no module's output"
            finding.missing |= dict.fromkeys((hook, *hooks), reason)
            finding.remarks.append(reason)
            continue
        finding.error = max(finding.error, term.error / (float(after.abs().max()) or 1.0))
        finding.remarks += term.remarks(hook)
        finding.points.append(_leaving(prefix + hook, path, term.call))
        root = _root(term.call, children)
        if not torch.equal(_value(root), _value(term.call)):
            finding.remarks.append(f"{hook} is read after {term.call.path}, a norm on what {root.path} returns")
        # The parts of an MLP may stand in the block itself (OPT).
        apart = not any(_within(c, root) for c in parts) or _after_activation(root, parts)
        inside = [c for c in parts if (c.direct if apart else _within(c, root))]
        find(finding, path, prefix, root, inside, config)
    return finding


def _wrapped(block: Call, parts: list[Call]) -> Call | None:
    """The block in a wrapper around it: a part that reads what it reads, returns a residual, and is most of it.

    So does attention in a block without a norm before it; but only a block has attention and something beside it.
    """
    direct = [c for c in parts if c.direct]
    for held in _cores(replace(block, path=""), direct):
        inner = [replace(c, path=c.path.removeprefix(f"{held.path}.")) for c in parts if _within(c, held)]
        kinds = {_is_attention(c) for c in inner if c.direct and _matrices(c)}
        if len(kinds) == 2 or (len(direct) == 1 and torch.equal(_value(held), _value(block))):
            return held
    return None


def _nothing(finding: Finding, hooks: tuple[str, ...], reason: str) -> Finding:
    finding.missing = dict.fromkeys(hooks, reason)
    finding.remarks.append(reason)
    return finding


@dataclass(frozen=True)
class _Term:
    """`target = keep * base + factor * call's output [+ extra]`."""

    call: Call
    error: float
    factor: float = 1.0
    keep: float = 1.0
    extra: str = ""

    def remarks(self, hook: str) -> list[str]:
        said = []
        if abs(self.factor - 1) > 1e-3:
            said.append(f"the residual stream receives {hook} times {self.factor:.3g}")
        if abs(self.keep - 1) > 1e-3:
            said.append(f"the residual stream is multiplied by {self.keep:.4g} where {hook} is added")
        if self.extra:
            said.append(f"{self.extra} adds to the residual stream beside {hook}")
        return said


def _middle(before: torch.Tensor, parts: list[Call]) -> tuple[Call, torch.Tensor] | None:
    """The call that reads the middle of the residual stream, and the middle: what a part reads and no part made."""
    made = [v for call in parts for v in call.outputs.values() if v.shape == before.shape]
    for call in parts:
        state = call.entering
        if not call.direct or state is None or state.shape != before.shape or torch.equal(state, before):
            continue
        if not any(torch.equal(state, m) for m in made):
            return call, state
    return None


def _explain(target: torch.Tensor, base: torch.Tensor, calls: list[Call]) -> _Term | None:
    """Which part's output makes the target from the base; the plainest account that holds is taken.

    Adding in the model's own precision must give the target bit by bit; so half precision misleads nobody.
    """
    # Of equal outputs the last counts: a dropout that changes nothing hands on what attention returned.
    for call in reversed(calls):
        if torch.equal(base + _value(call), target):
            return _Term(call, 0.0)
    for keep in (False, True):
        for call in reversed(calls):
            if (fit := _fit(target, base, [call], keep)) is not None:
                return fit
    for one, two in permutations(calls, 2):
        if (fit := _fit(target, base, [one, two], True)) is not None:
            return fit
    return None


def _fit(target: torch.Tensor, base: torch.Tensor, calls: list[Call], keep: bool) -> _Term | None:
    """Least squares for the factors; None if the account leaves more than the rounding of each number."""
    values = [_value(c).double().flatten() for c in calls]
    base_, target_ = base.double().flatten(), target.double().flatten()
    aim = target_ if keep else target_ - base_
    if not bool(aim.any()) or any(not bool(v.any()) for v in values):
        return None
    columns = torch.stack([*values, base_] if keep else values, 1)
    solution = torch.linalg.lstsq(columns, aim[:, None]).solution[:, 0]
    gap = (columns @ solution - aim).abs()
    size = target_.abs() + base_.abs() + (columns * solution).abs().sum(1)
    if bool((gap > 2 * torch.finfo(target.dtype).eps * size).any()):
        return None
    # A factor of nothing explains nothing: what is added must not vanish beside the rounding.
    if any(float((v * s).abs().max()) < 8 * float(gap.max()) for v, s in zip(values, solution, strict=False)):
        return None
    extra = ", ".join(c.path for c in calls[1:])
    return _Term(calls[0], float(gap.max()), float(solution[0]), float(solution[-1]) if keep else 1.0, extra)


def _parallel(after: torch.Tensor, before: torch.Tensor, calls: list[Call]) -> tuple[_Term | None, _Term | None]:
    """The two parts that are added to the block's input at once: attention and MLP, in whatever order."""
    for one, two in permutations(reversed(calls), 2):
        a, b = _value(one), _value(two)
        if _is_attention(one) and not _is_attention(two):
            for total in (before + a + b, a + b + before, before + b + a):
                if torch.equal(total, after):
                    return _Term(one, 0.0), _Term(two, 0.0)
    return None, None


def _root(call: Call, children: list[Call]) -> Call:
    """The part whose output a norm or dropout hands on: sandwich norms stand between attention and residual."""
    while call.entering is not None and all(p.dim() <= 1 for p in call.module.parameters()):
        entering = call.entering
        made = [c for c in children if c is not call and torch.equal(_value(c), entering)]
        if not made:
            break
        call = made[-1]
    return call


def _attention(finding: Finding, path: str, prefix: str, root: Call, inside: list[Call], config: Any) -> None:
    """Queries, keys, values and per-head outputs of an attention module, maybe inside of a wrapper."""
    able = [c for c in (root, *_cores(root, inside)) if hasattr(c.module, "config") and _is_attention(c)]
    if not able:
        reason = f"{root.path} is a {type(root.module).__name__}, not softmax attention"
        finding.missing |= dict.fromkeys(ATTENTION, reason)
        return
    core = next((c for c in able if _last(c, inside) is not None), able[0])
    finding.attention = f"{path}.{core.path}"
    width = head_width(core.module, config)
    output = _last(core, inside)
    heads = 0
    if output is not None and output.entering is not None and output.entering.shape[-1] % width == 0:
        heads = output.entering.shape[-1] // width
        finding.points.append(_entering(f"{prefix}attn.hook_z", path, output, heads=heads))
    else:
        finding.missing["attn.hook_z"] = "no module takes all heads' outputs and returns attention's"
    # What reads anything else (images, in cross-attention; queries, in a norm) projects something else.
    readers = _readers(core, inside)
    fused = [c for c in readers if re.search("q.*k.*v|^c_attn$", c.name)]
    if fused:
        finding.fused = f"{path}.{fused[0].path}"
        reason = f"how {fused[0].name} holds queries, keys and values could not be told"
        finding.missing |= dict.fromkeys((f"attn.hook_{x}" for x in "qkv"), reason)
        return
    for letter in "qkv":
        hook = f"attn.hook_{letter}"
        named = [c for c in readers if _letter(c) == letter]
        if len(named) != 1:
            names = ", ".join(c.name for c in readers) or "none"
            finding.missing[hook] = f"no projection of the residual stream of its own (there is: {names})"
            continue
        size = int(_value(named[0]).shape[-1])
        if _value(named[0]).dim() == 3 and size % width == 0 and (letter != "q" or not heads or size == heads * width):
            finding.points.append(_leaving(prefix + hook, path, named[0], heads=size // width))
        else:
            finding.missing[hook] = f"{named[0].name} returns {size} values, not {width} per head"


def _mlp(finding: Finding, path: str, prefix: str, root: Call, inside: list[Call], config: Any) -> None:
    """What enters and leaves the MLP's activation function; the MLP may be inside of a wrapper."""
    down = root if root in inside and _matrices(root) else None  # its parts stand in the block itself (OPT)
    for core in (root, *_cores(root, inside)):
        down = down or _last(core, inside)
    if down is None or down.entering is None or down.entering.dim() != 3:
        reason = f"{root.path} ({type(root.module).__name__}) is no plain MLP"
        finding.missing |= dict.fromkeys(MLP, reason)
        return
    shape = down.entering.shape
    finding.points.append(_entering(f"{prefix}mlp.hook_post", path, down))
    acts = [c for c in inside if _activation(c.module) and c.entering is not None and c.entering.shape == shape]
    # An activation inside of a projection, whose output it does not make, is an adapter's.
    linear = [c for c in inside if _matrices(c) and (c is down or not _within(down, c)) and c is not root]
    acts = [a for a in acts if not any(_within(a, c) and not torch.equal(_value(a), _value(c)) for c in linear)]
    if len(acts) == 1:
        finding.points.append(_entering(f"{prefix}mlp.hook_pre", path, acts[0]))
    else:
        finding.missing["mlp.hook_pre"] = "its activation function is no module"


def _cores(whole: Call, inside: list[Call]) -> list[Call]:
    """What a wrapper may be around: parts that read what it reads, return what it returns, and are most of it."""
    size = sum(p.numel() for p in whole.module.parameters())
    return [
        c
        for c in sorted(inside, key=lambda c: c.path.count("."))
        if _within(c, whole)
        and list(c.module.children())
        and _same(c.entering, whole.entering)
        and _value(c).shape == _value(whole).shape
        and 2 * sum(p.numel() for p in c.module.parameters()) > size
    ]


def _last(whole: Call, inside: list[Call]) -> Call | None:
    """The projection that makes a module's output, with whatever is wrapped around it.

    From the innermost module with that output outwards, while what goes in has the same shape: a wrapper may turn or
    scale it, whereas a module that makes queries or widens its input for an activation is more than a projection.
    """
    makers = [
        c
        for c in inside
        if _within(c, whole)
        and _matrices(c)
        and torch.equal(_value(c), _value(whole))
        and not _same(c.entering, whole.entering)
    ]
    if not makers:
        return None
    found = max(reversed(makers), key=lambda c: c.path.count("."))
    for outer in sorted((c for c in makers if _within(found, c)), key=lambda c: -c.path.count(".")):
        if outer.entering is not None and outer.entering.shape == _entered(found) and not _several(outer, inside):
            found = outer
    return found


def _readers(whole: Call, inside: list[Call]) -> list[Call]:
    """The projections of what a module reads, with whatever is wrapped around each."""
    found = [c for c in inside if _within(c, whole) and _matrices(c) and _same(c.entering, whole.entering)]
    found = [c for c in found if c.leaving is not None and c.place is None]
    found = [c for c in found if not _several(c, found)]
    return [c for c in found if not any(_within(c, other) for other in found)]


def _several(whole: Call, parts: list[Call]) -> bool:
    """Whether it holds several projections: of queries, keys and values."""
    return len({_letter(p) for p in parts if _within(p, whole) and _matrices(p)} & set("qkv")) > 1


def _entered(call: Call) -> torch.Size | None:
    return None if call.entering is None else call.entering.shape


def _letter(call: Call) -> str:
    """The initial of a projection's name."""
    return call.name.lstrip("w")[:1]


def _within(call: Call, whole: Call) -> bool:
    """Whether a part is inside of another (the block itself has no path)."""
    return call is not whole and (not whole.path or call.path.startswith(f"{whole.path}."))


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
    own = getattr(module, "head_dim", None) or getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _value(call: Call) -> torch.Tensor:
    return torch.empty(0) if call.leaving is None else call.leaving


def _same(one: torch.Tensor | None, two: torch.Tensor | None) -> bool:
    return one is not None and two is not None and torch.equal(one, two)


def _is_attention(call: Call) -> bool:
    return "attn" in call.path.lower() or "attention" in f"{call.path} {type(call.module).__name__}".lower()


def _after_activation(root: Call, parts: list[Call]) -> bool:
    """Whether a part reads what an activation function beside it gave: then it is a projection, not an MLP."""
    return any(c.direct and _activation(c.module) and _same(c.leaving, root.entering) for c in parts)


def _matrices(call: Call) -> bool:
    """Whether it has weight matrices (and not one per expert), itself or in its parts."""
    dims = {p.dim() for p in call.module.parameters()}
    return 2 in dims and max(dims) == 2


def _matrix(module: torch.nn.Module) -> bool:
    """Whether it is a leaf with a weight matrix (and not one per expert)."""
    dims = {p.dim() for p in module.parameters()}
    return not list(module.children()) and 2 in dims and max(dims) == 2


def _activation(module: torch.nn.Module) -> bool:
    """Whether it is a leaf without weights that does something."""
    idle = isinstance(module, (torch.nn.Dropout, torch.nn.Identity))
    return not idle and not list(module.children()) and not list(module.parameters())
