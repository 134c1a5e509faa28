"""Hook points: a name, the module it sits on, and where in that module's call its tensor is.

The names are TransformerLens' (`blocks.3.hook_resid_post`); the places are found on the model itself, see `anatomy`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from threading import get_ident
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from xmi.errors import HookError
from xmi.shown import Shown

BLOCK_HOOKS = (
    "hook_resid_pre",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_pattern",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Hooks of a block, in the order of execution."""

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_SHORT = re.compile(r"(?:(?:attn|mlp)\.)?(?:hook_)?(\w+)")

Write = Callable[[torch.Tensor], torch.Tensor | None]


@dataclass(frozen=True)
class Point(Shown):
    """Where a hook sits.

    Attributes:
        name: `blocks.3.attn.hook_z`.
        module: Path of the module in whose call the tensor is.
        side: Whether it goes in or comes out.
        place: Input: number or name of the argument. Output: index in a tuple, or None for the output itself.
        heads: Number of heads into which the last axis is split, or None.
        pick: Which of these heads are meant (of a projection that makes queries, keys and values at once), or None.
        shared: The tensor is read again outside of the module (`resid_mid` by the residual branch), so it is written
            in place.
        flat: Path of the block, if the module works on all tokens of the batch in one axis; the hook still sees
            [batch, position, ...].
        dense: Calls that look up integers are left alone (a table that is used as projector, too).
        pattern: It is an attention pattern: read and written between softmax and values, with eager attention.
    """

    name: str
    module: str
    side: Literal["input", "output"]
    place: int | str | None = None
    heads: int | None = None
    pick: tuple[int, ...] | None = None
    shared: bool = False
    flat: str | None = None
    pattern: bool = False
    dense: bool = False

    @property
    def layer(self) -> int | None:
        """The block's number, or None."""
        match = _BLOCK.fullmatch(self.name)
        return int(match[1]) if match else None

    def attach(self, model: torch.nn.Module, write: Write) -> _Handles:
        """Calls a function with the tensor at every forward; what it returns takes the tensor's place.

        Returns:
            The handle that ends it.

        Raises:
            HookError: At a forward, if the module gives no tensor there.
        """
        module = model.get_submodule(self.module)
        if self.pattern:
            return _Handles(_attach_pattern(module, lambda raw: self._swap(raw, write, None)))
        rows: list[int] = []
        handles: list[RemovableHandle] = []
        if self.flat is not None:

            def count(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                rows[:] = [(args[0] if args else next(iter(kwargs.values()))).shape[0]]

            block = model.get_submodule(self.flat)
            handles.append(block.register_forward_pre_hook(count, with_kwargs=True))

        def after(_module: Any, args: tuple[Any, ...], output: Any) -> Any:
            if self.dense and not _any_float(args):
                return output
            if self.place is None:
                return self._swap(output, write, rows)
            parts = list(output)
            parts[int(self.place)] = self._swap(parts[int(self.place)], write, rows)
            return tuple(parts)

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.dense and not _any_float((*args, *kwargs.values())):
                return args, kwargs
            if isinstance(self.place, str):
                return args, {**kwargs, self.place: self._swap(kwargs[self.place], write, rows)}
            number = int(self.place or 0)
            return (*args[:number], self._swap(args[number], write, rows), *args[number + 1 :]), kwargs

        if self.side == "output":
            handles.append(module.register_forward_hook(after))
        else:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        return _Handles(handles)

    def _swap(self, raw: Any, write: Write, rows: list[int] | None) -> Any:
        if not isinstance(raw, torch.Tensor):
            raise HookError(f"{self.name}: {self.module} gave {type(raw).__name__} where a tensor was expected.")
        seen = raw.reshape(rows[0], -1, *raw.shape[1:]) if rows else raw
        seen = seen.reshape(*seen.shape[:-1], self.heads, -1) if self.heads else seen
        if self.pick is None:
            given = write(seen)
            if given is None:
                return raw
        else:
            picked = list(self.pick)
            part = write(seen[..., picked, :])
            if part is None:
                return raw
            given = seen.clone()
            given[..., picked, :] = part
        if given is raw:
            return raw
        flat = given.reshape(raw.shape)
        if self.shared:
            raw.copy_(flat)
            return raw
        return flat


def _any_float(values: Iterable[Any]) -> bool:
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    return not tensors or any(v.is_floating_point() for v in tensors)


class _Handles:
    """Several handles as one."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self.handles = handles

    def remove(self) -> None:
        """Ends all of them."""
        for handle in self.handles:
            handle.remove()


class _Between(TorchFunctionMode):
    """Stands between softmax and values: every eager attention of transformers drops out its pattern there.

    Nothing else shows the pattern before it is used; what the module returns besides its output is a report of it.
    """

    def __init__(self, swap: Callable[[Any], Any]) -> None:
        super().__init__()
        self.swap = swap

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hands the pattern to the hook."""
        result = func(*args, **(kwargs or {}))
        dropped = func is torch.nn.functional.dropout and result.dim() == 4
        return self.swap(result) if dropped else result


class _Modes:
    """The mode of each thread that is in an attention module's forward."""

    def __init__(self, swap: Callable[[Any], Any]) -> None:
        self.swap = swap
        self.open: dict[int, _Between] = {}

    def enter(self, *_: Any) -> None:
        """At the beginning of the forward."""
        self.remove()
        self.open[get_ident()] = mode = _Between(self.swap)
        mode.__enter__()  # type: ignore[no-untyped-call]

    def remove(self, *_: Any) -> None:
        """At its end; for Ctrl-C torch calls no hook, and the mode would outlive the forward until the next one."""
        if (mode := self.open.pop(get_ident(), None)) is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def _attach_pattern(module: torch.nn.Module, swap: Callable[[Any], Any]) -> list[Any]:
    modes = _Modes(swap)
    before = module.register_forward_pre_hook(modes.enter)
    after = module.register_forward_hook(modes.remove, always_call=True)  # also when the forward fails
    return [modes, before, after]


def short_name(name: str) -> str:
    """The part of a hook name that is the same in all layers: `blocks.3.attn.hook_z` gives `attn.hook_z`."""
    match = _BLOCK.fullmatch(name)
    return match[2] if match else name


def full_name(short: str, layer: int | None = None) -> str:
    """A hook's full name from TransformerLens' short forms: `("resid_post", 5)`, `("z", 5)`, `("embed",)`.

    Raises:
        HookError: No such hook.
    """
    found = _matches(short)
    if not found:
        raise HookError(f"No hook {short!r}. {_nearest(short, [*map(_plain, BLOCK_HOOKS), *OUTER])}")
    if found[0] in OUTER.values():
        return found[0]
    if layer is None:
        raise HookError(f"Hook {short!r} is one per layer: write ({short!r}, layer).")
    return f"blocks.{layer}.{found[0]}"


def from_end(layer: Any, count: int) -> int:
    """The number, from 0, of a layer; as in a list, negative ones count from the end.

    Args:
        layer: From `-count` to `count - 1`.
        count: How many there are.

    Raises:
        HookError: There is no such layer.
    """
    try:
        found = None if isinstance(layer, bool) else index(layer)
    except TypeError:
        found = None
    if found is None or not -count <= found < count:
        raise HookError(f"No layer {layer!r}: there are layers 0 to {count - 1}, or, from the end, -1 to {-count}.")
    return found % count


OUTER = {
    "embed": "hook_embed",
    "normalized": "ln_final.hook_normalized",
    "ln_final": "ln_final.hook_normalized",
    "vision": "vision.hook_out",
    "projector": "projector.hook_out",
}
"""Short forms of the hooks outside of the blocks."""


def select(
    wanted: str | Sequence[str] | Callable[[str], bool], names: Sequence[str], missing: dict[str, str]
) -> list[str]:
    """The full names that a choice means, in the order of execution.

    Args:
        wanted: A full name, a short one that means all layers (`resid_post`), several of them, or a predicate.
        names: What the model has.
        missing: What it lacks, with the reason.

    Raises:
        HookError: A name that the model does not have; it says why, or names the nearest.
    """
    listed = isinstance(wanted, Iterable) and not isinstance(wanted, Mapping)
    items = [wanted] if isinstance(wanted, str) else list(wanted) if listed else []  # type: ignore[arg-type]
    if not callable(wanted) and (not items or not all(isinstance(item, str) for item in items)):
        raise HookError(
            f"{wanted!r} names no hooks: write a name ('blocks.3.hook_resid_post'), a short one that means all layers "
            "('resid_post'), a list of names, or a function of the name that says whether it is meant."
        )
    if callable(wanted):
        chosen = {name for name in names if wanted(name)}
        if not chosen:
            raise HookError(f"The predicate chooses none of the model's {len(names)} hooks.")
        return [name for name in names if name in chosen]
    chosen = set()
    for item in items:
        shorts = _matches(item)
        found = [n for n in names if n == item or short_name(n) in shorts]
        if not found:
            known = {item, *shorts, *(short_name(item),)}
            reasons = dict.fromkeys(r for n, r in missing.items() if n in known or short_name(n) in shorts)
            if reasons:
                raise HookError(f"This model has no {item}: {'; '.join(reasons)}.")
            raise HookError(f"No hook {item!r}. {_nearest(item, [*names, *map(_plain, BLOCK_HOOKS), *OUTER])}")
        chosen.update(found)
    return [name for name in names if name in chosen]


def sort_names(names: Iterable[str], n_layers: int) -> list[str]:
    """Hook names in the order of execution."""
    order = ["vision.hook_out", "projector.hook_out", "hook_embed"]
    order += [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in BLOCK_HOOKS]
    order.append("ln_final.hook_normalized")
    return sorted(names, key=order.index)


def _matches(item: str) -> tuple[str, ...]:
    """Short names within a block, or outer names, that an item such as `resid_post`, `z` or `attn.hook_z` means."""
    if item in OUTER or item in OUTER.values():
        return (OUTER.get(item, item),)
    if not _SHORT.fullmatch(item):
        return ()
    return tuple(hook for hook in BLOCK_HOOKS if item in (hook, _plain(hook), hook.rpartition(".")[2]))


def _plain(hook: str) -> str:
    return hook.rpartition("hook_")[2]


def _nearest(item: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(item, list(dict.fromkeys(names)), n=3, cutoff=0.5)
    return f"Nearest: {', '.join(near)}." if near else "vlm.hook_names lists what this model has."
