"""What a block is made of, measured on the block itself.

No table says where a family keeps its attention or whether it normalises before or after. One forward is recorded,
and the parts are found by what they compute: the middle of the residual stream is the one tensor that a part of the
block reads and no part made; what attention adds is the part whose output is the difference; per-head outputs enter
the module whose output is attention's. So every name is proven by an identity that held on this model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import Any

import torch

from xmi.model.backbone import Backbone
from xmi.model.points import Point, sort_names


@dataclass(frozen=True)
class Anatomy:
    """The hook points of a model and what is unusual about it.

    Attributes:
        points: Where each hook sits, by full name, in the order of execution.
        missing: Hooks that this model cannot have, by name within a block (`attn.hook_q`) or full name; with reasons.
        deviations: What differs from `resid_mid = resid_pre + attn_out`, `resid_post = resid_mid + mlp_out`,
            `resid_pre[l + 1] = resid_post[l]`, `resid_pre[0] = embed`, one statement each.
        bookkeeping: Largest error of these identities with the deviations applied, relative to the residual.
        conditional: Blocks that run only with an image.
    """

    points: dict[str, Point]
    missing: dict[str, str]
    deviations: tuple[str, ...]
    bookkeeping: float
    conditional: tuple[int, ...] = ()


@dataclass
class Call:
    """One call of a module in a recorded forward: its tensors, copied."""

    path: str
    module: torch.nn.Module
    inputs: dict[int | str, torch.Tensor]
    outputs: dict[int | None, torch.Tensor]
    flat: bool = False

    def unflatten(self, shape: torch.Size) -> None:
        """Gives tensors that hold all tokens in one axis their batch and position axes."""
        for tensors in (self.inputs, self.outputs):
            for key, value in list(tensors.items()):
                tensors[key] = _unflat(value, shape)  # type: ignore[index]
                self.flat |= tensors[key] is not value  # type: ignore[index]

    @property
    def entering(self) -> torch.Tensor | None:
        """The first floating-point tensor that went in."""
        return next(iter(self.inputs.values()), None)

    @property
    def argument(self) -> int | str:
        """Where it stood among the arguments."""
        return next(iter(self.inputs))

    @property
    def leaving(self) -> torch.Tensor | None:
        """The first tensor that came out."""
        return next(iter(self.outputs.values()), None)

    @property
    def place(self) -> int | None:
        """Its index in the output tuple, or None."""
        return next(iter(self.outputs))


@dataclass
class _Finding:
    """What was found in one block."""

    points: list[Point] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    error: float = 0.0
    attention: str = ""
    entering: torch.Tensor | None = None
    leaving: torch.Tensor | None = None


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
    found: dict[int, _Finding] = {}
    streams: list[dict[int, _Finding]] = []
    outer: list[Point] = []
    remarks: list[str] = []
    missing: dict[str, str] = {}
    for probe in probes:
        stream, calls = _record(model, backbone, probe)
        streams.append(stream)
        outer = _outer(calls, backbone, stream, remarks, missing) or outer
        for layer, finding in stream.items():
            found.setdefault(layer, finding)
    skipped = [layer for layer in range(backbone.n_layers) if any(layer not in s for s in streams)]
    if skipped:
        remarks.append(f"layers {ranges(skipped)} run only with an image")
    never = [layer for layer in range(backbone.n_layers) if layer not in found]
    for layer in never:
        missing[f"blocks.{layer}"] = "the block did not run in the self-check"
    between = max((_between(stream, remarks) for stream in streams), default=0.0)
    patterns, lacking = _patterns(model, backbone, found, probes)
    outer += patterns
    points = {p.name: p for p in (*outer, *(p for f in found.values() for p in f.points))}
    remarks += _summary({layer: f.remarks for layer, f in found.items()}, backbone.n_layers)
    for layer, finding in found.items():
        for hook, reason in finding.missing.items():
            missing[f"blocks.{layer}.{hook}"] = reason
    missing |= lacking
    order = sort_names(points, backbone.n_layers)
    worst = max([between, *(f.error for f in found.values())])
    return Anatomy(
        {name: points[name] for name in order}, missing, tuple(dict.fromkeys(remarks)), worst, tuple(skipped)
    )


def _record(
    model: torch.nn.Module, backbone: Backbone, probe: Callable[[], Any]
) -> tuple[dict[int, _Finding], dict[str, Call]]:
    """Runs a probe; judges each block as soon as it ends, so that one block's tensors are held at a time."""
    blocks = list(model.get_submodule(backbone.layers).children())
    owners: dict[int, tuple[int, str]] = {}
    for layer, block in enumerate(blocks):
        for path, module in block.named_modules():
            owners.setdefault(id(module), (layer, path))
    outer = {id(model.get_submodule(p)): p for p in (backbone.decoder, backbone.embed, backbone.norm)}
    current: list[Call] = []
    stream: dict[int, _Finding] = {}
    calls: dict[str, Call] = {}

    def keep(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) in outer:
            calls[outer[id(module)]] = _call(outer[id(module)], module, args, kwargs, output)
            return
        layer, path = owners[id(module)]
        call = _call(path, module, args, kwargs, output)
        if path:
            current.append(call)
            return
        stream[layer] = _judge(f"{backbone.layers}.{layer}", layer, call, list(current), model)
        current.clear()

    watched = [m for m in model.modules() if id(m) in owners or id(m) in outer]
    handles = [m.register_forward_hook(keep, with_kwargs=True) for m in watched]
    try:
        with torch.no_grad():
            probe()
    finally:
        for handle in handles:
            handle.remove()
    return stream, calls


def _unflat(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """All tokens in one axis as [batch, position, ...]."""
    rows = shape[0] * shape[1]
    flat = value.dim() == 2 and value.shape[0] == rows and len(shape) == 3
    return value.reshape(shape[0], shape[1], -1) if flat else value


def _call(path: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Call:
    def kept(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.is_floating_point()

    inputs: dict[int | str, torch.Tensor] = {i: v.clone() for i, v in enumerate(args) if kept(v)}
    inputs |= {k: v.clone() for k, v in kwargs.items() if kept(v)}
    outputs: dict[int | None, torch.Tensor] = {}
    if kept(output):
        outputs[None] = output.clone()
    elif isinstance(output, (tuple, list)):
        outputs = {i: v.clone() for i, v in enumerate(output) if kept(v)}
    return Call(path, module, inputs, outputs)


def _judge(path: str, layer: int, block: Call, parts: list[Call], model: torch.nn.Module) -> _Finding:
    """Finds the parts of one block from its recorded call and those of its descendants."""
    finding = _Finding(entering=block.entering, leaving=block.leaving)
    before, after = block.entering, block.leaving
    prefix = f"blocks.{layer}."
    if before is None or after is None:
        finding.missing = {"hook_resid_pre": "the block takes or returns no tensor"}
        return finding
    finding.points.append(Point(f"{prefix}hook_resid_pre", path, "input", block.argument))
    finding.points.append(Point(f"{prefix}hook_resid_post", path, "output", block.place))
    inner = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out", *_ATTENTION, *_MLP)
    if before.dim() != 3 or before.shape != after.shape:
        reason = f"its residual stream has the shape {list(before.shape)} within blocks"
        finding.missing = dict.fromkeys(inner, reason)
        finding.remarks.append(reason)
        return finding
    for call in parts:
        call.unflatten(before.shape)
    children = [c for c in parts if "." not in c.path and c.leaving is not None and c.leaving.shape == before.shape]
    size = float(after.abs().max()) or 1.0
    close = _Close(size, after.dtype)
    middle = _middle(before, parts, close)
    if middle is not None:
        reader, state = middle
        first = _explain(state, before, children, close)
        second = _explain(after, state, children, close)
        finding.points.append(
            Point(
                f"{prefix}hook_resid_mid",
                f"{path}.{reader.path}",
                "input",
                reader.argument,
                shared=True,
                flat=path if reader.flat else None,
            )
        )
    else:
        first, second = _parallel(after, before, children, close)
        if first is None or second is None:
            reason = "the block's output is not its input plus what two of its parts return"
            if any(close(c.leaving, after) for c in children):
                reason = "its parts add the residual stream themselves"
            finding.missing = dict.fromkeys(inner, reason)
            finding.remarks.append(reason)
            return finding
        finding.missing["hook_resid_mid"] = "attention and MLP read the same input (parallel block)"
        finding.remarks.append("attention and MLP run in parallel: there is no resid_mid")
    for hook, term, role in (("hook_attn_out", first, "attention"), ("hook_mlp_out", second, "mlp")):
        hooks = _ATTENTION if role == "attention" else _MLP
        if term is None:
            reason = f"what {role} adds to the residual stream is no module's output"
            finding.missing |= dict.fromkeys((hook, *hooks), reason)
            finding.remarks.append(reason)
            continue
        finding.error = max(finding.error, term.error / size)
        finding.remarks += term.remarks(hook)
        flat = path if term.call.flat else None
        finding.points.append(Point(prefix + hook, f"{path}.{term.call.path}", "output", term.call.place, flat=flat))
        root = _root(term.call, children, close)
        if not torch.equal(_value(root), _value(term.call)):
            finding.remarks.append(f"{hook} is read after {term.call.path}, a norm on what {root.path} returns")
        inside = [c for c in parts if c.path.startswith(f"{root.path}.")]
        if _matrix(root.module):  # the parts of an MLP may stand in the block itself (OPT)
            inside = [c for c in parts if "." not in c.path]
        if role == "attention":
            finding.attention = f"{path}.{root.path}"
        find = _attention if role == "attention" else _mlp
        points, lacking = find(path, prefix, root, inside, close, model)
        finding.points += points
        finding.missing |= lacking
    return finding


_ATTENTION = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z")
_MLP = ("mlp.hook_pre", "mlp.hook_post")


@dataclass(frozen=True)
class _Close:
    """Equality up to the rounding of a few additions."""

    size: float
    dtype: torch.dtype

    def bound(self) -> float:
        return 16 * torch.finfo(self.dtype).eps * self.size

    def __call__(self, a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
        if a is None or b is None or a.shape != b.shape:
            return False
        return bool((a.float() - b.float().to(a.device)).abs().max() <= self.bound())


@dataclass(frozen=True)
class _Term:
    """`target = keep * base + factor * call's output [+ extra]`."""

    call: Call
    factor: float
    keep: float
    extra: str
    error: float

    def remarks(self, hook: str) -> list[str]:
        what = "attention" if "attn" in hook else "MLP"
        said = []
        if abs(self.factor - 1) > 1e-3:
            said.append(f"the residual stream receives {hook} times {self.factor:.4g}")
        if abs(self.keep - 1) > 1e-3:
            said.append(f"the residual stream is multiplied by {self.keep:.4g} where {what} is added")
        if self.extra:
            said.append(f"{self.extra} adds to the residual stream beside {hook}")
        return said


def _middle(before: torch.Tensor, parts: list[Call], close: _Close) -> tuple[Call, torch.Tensor] | None:
    """The call that reads the middle of the residual stream, and the middle: what a part reads and no part made.

    A part that adds the residual itself (BLOOM's attention) makes the middle; then the difference to the block's
    input is not what the part was asked for, but still the middle is read by a norm and equals the part's output.
    """
    made: list[torch.Tensor] = []
    for call in sorted(parts, key=lambda c: c.path.count(".")):
        made += [v for v in call.outputs.values() if v.shape == before.shape]
    for call in parts:
        state = call.entering
        if "." in call.path or state is None or state.shape != before.shape or close(state, before):
            continue
        if not any(torch.equal(state, m) for m in made):
            return call, state
    return None


def _explain(target: torch.Tensor, base: torch.Tensor, calls: list[Call], close: _Close) -> _Term | None:
    """Which part's output makes the target from the base; the plainest account that holds is taken."""
    difference = (target - base).double()
    # Of equal outputs the last counts: a dropout that changes nothing hands on what attention returned.
    for call in reversed(calls):
        if close(difference, _value(call)):
            return _Term(call, 1.0, 1.0, "", float((difference - _value(call)).abs().max()))
    for keep in (False, True):
        for call in reversed(calls):
            if (fit := _fit(target, base, [call], keep, close)) is not None:
                return fit
    for one, two in permutations(calls, 2):
        if (fit := _fit(target, base, [one, two], True, close)) is not None:
            return fit
    return None


def _fit(target: torch.Tensor, base: torch.Tensor, calls: list[Call], keep: bool, close: _Close) -> _Term | None:
    """Least squares for the factors; None if the account leaves more than rounding."""
    values = [_value(c).flatten() for c in calls]
    if any(not bool(v.any()) for v in values):
        return None
    columns = torch.stack([*values, base.double().flatten()] if keep else values, 1)
    aim = target.double().flatten() if keep else (target.double() - base.double()).flatten()
    if not bool(aim.any()):  # a closed gate: nothing is added, by whichever part runs last
        return None
    solution = torch.linalg.lstsq(columns, aim[:, None]).solution[:, 0]
    error = float((columns @ solution - aim).abs().max())
    if error > close.bound():
        return None
    rest = [c.path for c in calls[1:]]
    return _Term(calls[0], float(solution[0]), float(solution[-1]) if keep else 1.0, ", ".join(rest), error)


def _value(call: Call) -> torch.Tensor:
    value = call.leaving
    return torch.empty(0) if value is None else value.double()


def _parallel(
    after: torch.Tensor, before: torch.Tensor, calls: list[Call], close: _Close
) -> tuple[_Term | None, _Term | None]:
    """The two parts that are added to the block's input at once: attention and MLP."""
    difference = (after - before).double()
    for one, two in permutations(reversed(calls), 2):
        if _is_attention(one) and not _is_attention(two) and close(difference, _value(one) + _value(two)):
            error = float((difference - _value(one) - _value(two)).abs().max())
            return _Term(one, 1.0, 1.0, "", error), _Term(two, 1.0, 1.0, "", error)
    return None, None


def _is_attention(call: Call) -> bool:
    return "attn" in call.path.lower() or "attention" in f"{call.path} {type(call.module).__name__}".lower()


def _root(call: Call, children: list[Call], close: _Close) -> Call:
    """The part whose output a norm or dropout hands on: sandwich norms stand between attention and residual."""
    while all(p.dim() <= 1 for p in call.module.parameters()):
        made = [c for c in children if c is not call and torch.equal(_value(c), call.entering.double())]  # type: ignore[union-attr]
        if not made:
            break
        call = made[-1]
    return call


def _attention(
    path: str, prefix: str, root: Call, inside: list[Call], close: _Close, model: torch.nn.Module
) -> tuple[list[Point], dict[str, str]]:
    """Queries, keys, values, patterns and per-head outputs of an attention module."""
    points: list[Point] = []
    if not any(_last_dim(c) for c in inside):
        return [], dict.fromkeys(_ATTENTION, f"{root.path} ({type(root.module).__name__}) has no parts of its own")
    width = _head_width(root.module, model)
    output = next((c for c in reversed(inside) if _matrix(c.module) and torch.equal(_value(c), _value(root))), None)
    missing: dict[str, str] = {}
    heads = 0
    if not hasattr(root.module, "config") or not _is_attention(root):
        return [], dict.fromkeys(_ATTENTION, f"{root.path} is a {type(root.module).__name__}, not softmax attention")
    if output is not None and output.entering is not None and output.entering.shape[-1] % width == 0:
        heads = output.entering.shape[-1] // width
        points.append(Point(f"{prefix}attn.hook_z", f"{path}.{output.path}", "input", output.argument, heads=heads))
    else:
        missing["attn.hook_z"] = "no module takes all heads' outputs and returns attention's"
    readers = [c for c in inside if _matrix(c.module) and c is not output and c.leaving is not None]
    fused = next((n for c in readers if re.search("q.*k.*v|^c_attn$", n := c.path.rpartition(".")[2])), None)
    if fused is not None:
        reason = f"{fused} projects queries, keys and values at once"
        return points, {**missing, **dict.fromkeys((f"attn.hook_{x}" for x in "qkv"), reason)}
    for letter in "qkv":
        named = [c for c in readers if c.path.rpartition(".")[2].lstrip("w").startswith(letter)]
        fits = [c for c in named if c.leaving is not None and c.leaving.dim() == 3 and c.leaving.shape[-1] % width == 0]
        wide = [c for c in fits if letter != "q" or not heads or c.leaving.shape[-1] == heads * width]  # type: ignore[union-attr]
        if len(wide) == 1 and len(named) == 1:
            split = wide[0].leaving.shape[-1] // width  # type: ignore[union-attr]
            points.append(Point(f"{prefix}attn.hook_{letter}", f"{path}.{wide[0].path}", "output", heads=split))
        elif len(named) == 1:
            name = named[0].path.rpartition(".")[2]
            missing[f"attn.hook_{letter}"] = f"{name} returns {_last_dim(named[0])} values, not {width} per head"
        else:
            names = ", ".join(c.path.rpartition(".")[2] for c in readers) or "none"
            missing[f"attn.hook_{letter}"] = f"attention has no projection of its own for it (it has: {names})"
    return points, missing


def _mlp(
    path: str, prefix: str, root: Call, inside: list[Call], close: _Close, model: torch.nn.Module
) -> tuple[list[Point], dict[str, str]]:
    """What enters and leaves the MLP's activation function."""
    points: list[Point] = []
    missing: dict[str, str] = {}
    down = next((c for c in reversed(inside) if _matrix(c.module) and torch.equal(_value(c), _value(root))), None)
    if down is None or down.entering is None or down.entering.dim() != 3:
        reason = f"{root.path} ({type(root.module).__name__}) is no plain MLP"
        return [], dict.fromkeys(_MLP, reason)
    shape = down.entering.shape
    flat = path if down.flat else None
    points.append(Point(f"{prefix}mlp.hook_post", f"{path}.{down.path}", "input", down.argument, flat=flat))
    acts = [c for c in inside if _activation(c.module) and c.entering is not None and c.entering.shape == shape]
    if len(acts) == 1:
        flat = path if acts[0].flat else None
        points.append(Point(f"{prefix}mlp.hook_pre", f"{path}.{acts[0].path}", "input", acts[0].argument, flat=flat))
    else:
        missing["mlp.hook_pre"] = "its activation function is no module"
    return points, missing


def _matrix(module: torch.nn.Module) -> bool:
    """Whether it is a leaf with a weight matrix."""
    return not list(module.children()) and any(p.dim() == 2 for p in module.parameters())


def _activation(module: torch.nn.Module) -> bool:
    """Whether it is a leaf without weights that does something."""
    idle = isinstance(module, (torch.nn.Dropout, torch.nn.Identity))
    return not idle and not list(module.children()) and not list(module.parameters())


def _last_dim(call: Call) -> int:
    return 0 if call.leaving is None else int(call.leaving.shape[-1])


def _head_width(module: torch.nn.Module, model: torch.nn.Module) -> int:
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    own = getattr(module, "head_dim", None) or getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _outer(
    calls: dict[str, Call],
    backbone: Backbone,
    stream: dict[int, _Finding],
    remarks: list[str],
    missing: dict[str, str],
) -> list[Point]:
    """The embedding that enters the decoder, and the final norm."""
    points = []
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
    else:
        missing["hook_embed"] = "neither the decoder takes embeddings nor its embedding module runs"
    first = stream.get(0)
    entering = first.entering if first is not None else None
    if state is not None and entering is not None and state.shape == entering.shape:
        close = _Close(float(entering.abs().max()), entering.dtype)
        if not close(state, entering):
            factor = float((state.double() * entering).sum() / (state.double() ** 2).sum())
            plain = close(state * factor, entering)
            said = f"resid_pre of layer 0 is hook_embed times {factor:.4g}" if plain else _POSITIONS
            remarks.append(said)
    return points


_POSITIONS = "resid_pre of layer 0 is not hook_embed alone (positions or a norm come between)"


def _between(stream: dict[int, _Finding], remarks: list[str]) -> float:
    """Checks that a block receives what the one before returned; says after which layers something is added."""
    worst, added = 0.0, []
    layers = sorted(stream)
    for one, two in pairwise(layers):
        left, right = stream[one].leaving, stream[two].entering
        if left is None or right is None or left.shape != right.shape:
            continue
        size = float(right.abs().max()) or 1.0
        gap = float((left.double() - right.to(left.device).double()).abs().max()) / size
        if gap > 16 * torch.finfo(left.dtype).eps:
            added.append(one)
        else:
            worst = max(worst, gap)
    if added:
        remarks.append(
            f"the residual stream changes between blocks, after layers {ranges(added)} (deepstack adds image features "
            "there); resid_pre of the next layer holds the change, resid_post does not"
        )
    return worst


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


def _patterns(
    model: torch.nn.Module,
    backbone: Backbone,
    found: dict[int, _Finding],
    probes: Sequence[Callable[[], Any]],
) -> tuple[list[Point], dict[str, str]]:
    """Attention patterns: seen where they are used, and equal to what eager attention reports of them."""
    name = "blocks.{}.attn.hook_pattern"
    points = {
        layer: Point(name.format(layer), finding.attention, "output", pattern=True)
        for layer, finding in found.items()
        if finding.attention and "attn.hook_pattern" not in finding.missing
    }
    seen: dict[int, torch.Tensor] = {}
    told: dict[int, bool] = {}

    def report(layer: int) -> Callable[..., None]:
        def compare(_module: Any, _args: Any, output: Any) -> None:
            maps = [v for v in output if isinstance(v, torch.Tensor) and v.dim() == 4] if type(output) is tuple else []
            told[layer] = layer in seen and any(torch.equal(v, seen[layer]) for v in maps)

        return compare

    handles: list[Any] = []
    try:
        with eager_attention(model, backbone), torch.no_grad():
            for layer, point in points.items():
                handles.append(point.attach(model, lambda v, layer=layer: seen.__setitem__(layer, v.clone())))  # type: ignore[misc]
                handles.append(model.get_submodule(point.module).register_forward_hook(report(layer)))
            for probe in probes:
                probe()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return [], {p.name: f"eager attention does not run ({type(error).__name__})" for p in points.values()}
    finally:
        for handle in handles:
            handle.remove()
    reason = "attention, run eagerly, does not report the pattern it uses"
    return (
        [p for layer, p in points.items() if told.get(layer)],
        {p.name: reason for layer, p in points.items() if not told.get(layer)},
    )


@contextmanager
def eager_attention(model: torch.nn.Module, backbone: Backbone) -> Iterator[None]:
    """Runs the language backbone with attention that returns its patterns."""
    config: Any = model.get_submodule(backbone.decoder).config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
