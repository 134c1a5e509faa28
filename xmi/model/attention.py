"""What happens inside an attention module's own code: its patterns, and how a fused projection is split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from xmi.model.backbone import Backbone
from xmi.model.block import Finding, head_width
from xmi.model.hook_points import Point

Found = tuple[list[Point], dict[str, str]]


@contextmanager
def attention(model: torch.nn.Module, backbone: Backbone, implementation: str) -> Iterator[None]:
    """Runs the language backbone with another attention implementation (`eager` returns its patterns)."""
    config: Any = model.get_submodule(backbone.decoder).config
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def find_patterns(
    model: torch.nn.Module, backbone: Backbone, found: dict[int, Finding], probes: Sequence[Callable[[], Any]]
) -> Found:
    """Attention patterns: seen where they are used, and equal to what eager attention reports of them."""
    points = {
        layer: Point(f"blocks.{layer}.attn.hook_pattern", finding.attention, "output", pattern=True)
        for layer, finding in found.items()
        if finding.attention
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
        with attention(model, backbone, "eager"), torch.no_grad():
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


class _Seen(TorchFunctionMode):
    """Keeps the queries, keys and values that attention is computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.Tensor, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks at the arguments of attention."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            names = ("query", "key", "value")
            self.calls.append(tuple(args[i] if i < len(args) else kwargs[n] for i, n in enumerate(names)))
        return func(*args, **kwargs)


@contextmanager
def _watched(model: torch.nn.Module, fused: dict[int, Finding]) -> Iterator[tuple[dict[int, Any], dict[int, Any]]]:
    """Keeps, by layer, what fused projections give, and queries, keys and values that attention is computed from."""
    made: dict[int, torch.Tensor] = {}
    used: dict[int, tuple[torch.Tensor, ...]] = {}
    modes: list[_Seen] = []

    def enter(_module: Any, _args: Any) -> None:
        modes.append(_Seen())
        modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(layer: int) -> Callable[..., None]:
        def end(_module: Any, _args: Any, _output: Any) -> None:
            if modes:
                mode = modes.pop()
                mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
                used.update({layer: mode.calls[0]} if mode.calls else {})

        return end

    def keep(layer: int) -> Callable[..., None]:
        return lambda _module, _args, output: made.__setitem__(layer, output.clone())

    handles: list[Any] = []
    try:
        for layer, finding in fused.items():
            module = model.get_submodule(finding.attention)
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave(layer), always_call=True))
            handles.append(model.get_submodule(finding.fused).register_forward_hook(keep(layer)))
        yield made, used
    finally:
        for handle in handles:
            handle.remove()
        while modes:  # for Ctrl-C torch calls no hook
            modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def find_fused(
    model: torch.nn.Module, backbone: Backbone, found: dict[int, Finding], probes: Sequence[Callable[[], Any]]
) -> list[Point]:
    """Queries, keys and values in a projection that makes them at once.

    At the first position rotary embeddings turn nothing, so there attention's own queries, keys and values are rows of
    the projection's output, whatever the order of heads in it.
    """
    fused = {layer: f for layer, f in found.items() if f.fused}
    if not fused:
        return []
    try:
        with _watched(model, fused) as (made, used), attention(model, backbone, "sdpa"), torch.no_grad():
            for probe in probes:
                probe()
    except (ValueError, RuntimeError, NotImplementedError):
        return []
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    points = []
    for layer in made.keys() & used.keys():
        finding = fused[layer]
        width = head_width(model.get_submodule(finding.attention), config)
        for letter, heads in zip("qkv", used[layer], strict=True):
            picked = _pick(made[layer], heads, width)
            if picked is not None:
                total = made[layer].shape[-1] // width
                name = f"blocks.{layer}.attn.hook_{letter}"
                points.append(Point(name, finding.fused, "output", heads=total, pick=picked))
    return points


def _pick(output: torch.Tensor, heads: torch.Tensor, width: int) -> tuple[int, ...] | None:
    """Which heads of a fused projection's output the given ones [batch, head, position, width] are."""
    if output.dim() != 3 or output.shape[-1] % width or heads.dim() != 4 or heads.shape[-1] != width:
        return None
    rows = output[0, 0].reshape(-1, width)
    picked: list[int] = []
    for head in heads[0, :, 0]:
        same = [i for i, row in enumerate(rows) if torch.equal(row, head)]
        if len(same) != 1:
            return None
        picked += [i for i in same if i not in picked]  # keys and values may be repeated for groups of queries
    return tuple(picked)
