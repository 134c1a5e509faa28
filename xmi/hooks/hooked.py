"""Hook functions: read as they are given, and attached for as long as their block is open."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Annotated, Any, TypeVar

import torch

from xmi.arguments import LEFT
from xmi.errors import HookError
from xmi.model import Anatomy, Block, Engine, select
from xmi.model.modes import eager_if, warn_of_eager
from xmi.session import Session
from xmi.shown import Shown

Names = Annotated[str | Sequence[str] | Callable[[str], bool], LEFT]


@dataclass(frozen=True)
class Hook(Shown):
    """What a hook function is told besides the activation.

    Attributes:
        name: Full name of the hook.

    Examples:
        >>> hook = xmi.Hook("blocks.3.hook_resid_post")
        >>> hook.name, hook.layer()
        ('blocks.3.hook_resid_post', 3)
    """

    name: str

    def layer(self) -> int:
        """The block's number.

        Raises:
            HookError: The hook is in no block.
        """
        if not self.name.startswith("blocks."):
            raise HookError(f"{self.name} belongs to no layer.")
        return int(self.name.split(".")[1])


HookFunction = Callable[[torch.Tensor, Hook], torch.Tensor | None]
"""Gets the activation and its hook; returns what takes its place, or None to leave it as it is."""

Hooks = Sequence[tuple[Names, HookFunction]]

EXAMPLE = '[("blocks.3.hook_resid_post", function)]'

S = TypeVar("S", bound=Session)


@contextmanager
def hooks(session: S, fwd_hooks: Hooks) -> Iterator[S]:
    """Hooks that are active for every forward inside the `with` block: `run_with_cache`, `generate`, the model.

    They act for the thread (or asyncio task) that opened the block, and for what it hands to `asyncio.to_thread`;
    what other threads run meanwhile is as if they were not there. A hook function is called in the middle of a
    forward: it must not run the model itself, nor wait for a thread that does.

    Args:
        fwd_hooks: As in `run_with_hooks`.

    Raises:
        HookError: As in `run_with_hooks`; also if something inside opens an nnsight trace (task vectors,
            transfers), because a trace reads a module's output before hooks on it have run.

    Examples:
        >>> with vlm.hooks([("blocks.3.hook_mlp_out", lambda value, hook: 0 * value)]):
        ...     made = vlm.generate(task.icl("text", n=1), max_new_tokens=1)
        >>> made.texts  # 'Bridgetown' without the hook
        ('Yerevan',)
    """
    with hooked(session.engine, session.report.anatomy, fwd_hooks):
        yield session


@contextmanager
def hooked(
    engine: Engine, anatomy: Anatomy, fwd_hooks: Hooks, bwd_hooks: Hooks = (), *, steers: bool = False
) -> Iterator[None]:
    """Every forward of this context runs with the hooks while the block is open; see `VLM.hooks` and `VLM.steer`."""
    forward = read_hooks("fwd_hooks", fwd_hooks, anatomy)
    backward = read_hooks("bwd_hooks", bwd_hooks, anatomy)
    engine.backend.require("hooks", engine.checkpoint.name)
    patterns = any(anatomy.points[name].pattern for name, _ in (*forward, *backward))
    block = Block(engine.guard, patterns=patterns, steers=steers)
    attached = ExitStack()
    try:
        with engine.alone():
            if block.patterns:
                warn_of_eager(engine)
            attached.callback(_attach_root(engine, block))
            for name, function in forward:
                write = _caller(block, name, function)
                attached.callback(anatomy.points[name].attach(engine.model, write).remove)
            for name, function in backward:
                write = _listener(block, name, function)
                attached.callback(anatomy.points[name].attach(engine.model, write).remove)
        with block.opened():
            yield
    finally:
        try:
            with engine.guard:  # a forward of another thread must not meet a list of hooks that changes
                attached.close()
        finally:
            attached.close()  # not even a second Ctrl-C leaves a hook behind


def read_hooks(where: str, hooks: Hooks, anatomy: Anatomy) -> list[tuple[str, HookFunction]]:
    """Pairs of one full name and a function, from whatever names are given.

    Args:
        where: What the hooks are called, for messages.
        hooks: Pairs of names and functions.
        anatomy: What hooks the model has.

    Raises:
        HookError: They are not pairs of names that the model has and functions of two arguments.
    """
    given: Any = hooks
    if isinstance(given, (str, Mapping)) or callable(given) or not isinstance(given, Iterable):
        raise HookError(f"{where} is a list of pairs, not {_shown(given)}: write {where}={EXAMPLE}.")
    pairs = list(given)
    if len(pairs) == 2 and callable(pairs[1]) and not isinstance(pairs[0], tuple):
        raise HookError(f"{where} is a list of pairs, and this is one pair alone: put brackets around it, {EXAMPLE}.")
    found = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not callable(pair[1]):
            swapped = isinstance(pair, (tuple, list)) and len(pair) == 2 and callable(pair[0])
            raise HookError(
                f"{where}[{number}] is {_shown(pair)}, not a pair of names and a function"
                f"{' (they are in the wrong order)' if swapped else ''}: write {where}={EXAMPLE}."
            )
        names, function = pair
        call = _of_two(f"{where}[{number}]", function)
        found += [(name, call) for name in select(names, list(anatomy.points), anatomy.missing)]
    return found


def _of_two(where: str, function: Callable[..., Any]) -> HookFunction:
    """A function that is called with an activation and a hook, by place or, as in TransformerLens, `hook=`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C do not say what they take
        return function
    try:
        signature.bind(None, None)
        return function
    except TypeError:
        pass
    try:
        signature.bind(None, hook=None)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        raise HookError(
            f"{where}: {name}{signature} cannot be called with two arguments, an activation and its hook: write "
            f"def {name if name.isidentifier() else 'function'}(value, hook)."
        ) from None
    return lambda value, hook: function(value, hook=hook)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"the {type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def _caller(block: Block, name: str, function: HookFunction) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """What calls a hook function in a forward."""
    hook = Hook(name)

    def call(value: torch.Tensor) -> torch.Tensor | None:
        if not block.acts:
            return None
        with block.calling(name):
            result = function(value, hook)
        # Without a result it may have been changed in place, also where the hook was handed a copy (fused projections).
        return value if result is None else _fitting(name, result, value)

    return call


def _listener(block: Block, name: str, function: HookFunction) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """What has a hook function called with the gradient when it comes by."""
    hook = Hook(name)

    def heard(gradient: torch.Tensor) -> torch.Tensor | None:
        result = function(gradient, hook)
        return None if result is None else _fitting(name, result, gradient)

    def listen(value: torch.Tensor) -> torch.Tensor | None:
        if not block.acts or not value.requires_grad:
            return None
        value.register_hook(heard)  # type: ignore[no-untyped-call]
        return value

    return listen


def _fitting(name: str, result: Any, value: torch.Tensor) -> torch.Tensor:
    """What a hook function returned, if it can take the place of what it was given.

    Raises:
        HookError: It cannot.
    """
    if not isinstance(result, torch.Tensor):
        raise HookError(f"The hook at {name} returned {type(result).__name__}: return a tensor, or None.")
    if result.shape != value.shape or result.dtype != value.dtype:
        raise HookError(
            f"The hook at {name} returned {list(result.shape)} {_dtype(result)} in place of {list(value.shape)} "
            f"{_dtype(value)}: return the same shape and dtype."
        )
    check_finite({name: result})
    return result.to(value.device)


def check_finite(found: dict[str, torch.Tensor], real: torch.Tensor | None = None) -> None:
    """Refuses NaN at real tokens; at padding some attention implementations leave anything.

    Args:
        found: Activations by hook name.
        real: Which tokens are real, shape [row, position]; None for all.

    Raises:
        HookError: NaN or infinite values.
    """
    flags: dict[torch.device, list[torch.Tensor]] = {}
    for value in found.values():
        flags.setdefault(value.device, []).append(torch.isfinite(value).all())
    if all(bool(torch.stack(some).all()) for some in flags.values()):  # one wait per device
        return
    for name, value in found.items():
        finite = torch.isfinite(value)
        if real is not None and value.shape[:2] == real.shape:
            finite = finite.flatten(2).all(-1) | ~real.to(value.device)
        bad = (~finite).flatten(1).any(-1).nonzero().flatten().tolist()
        if bad and not (real is not None and name.endswith("pattern")):
            raise HookError(
                f"{name} holds NaN or infinite values in rows {bad}. In half precision, load the model with "
                "dtype='float32' (or bfloat16 in place of float16); else look at the first hook that has them."
            )


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _attach_root(engine: Engine, block: Block) -> Callable[[], None]:
    """Lets the model run alone also where it is called as it is, `vlm.model(...)`, within a block of hooks.

    Returns:
        What ends it.
    """
    held: dict[int, ExitStack] = {}

    def leave(*_: Any) -> None:
        if (stack := held.pop(get_ident(), None)) is not None:
            stack.close()

    def enter(*_: Any) -> None:
        if block.acts:
            leave()  # Ctrl-C in an earlier forward leaves what no hook ends
            with ExitStack() as stack:
                stack.enter_context(engine.guard)
                stack.enter_context(eager_if(engine))
                held[get_ident()] = stack.pop_all()

    handles = (
        engine.model.register_forward_pre_hook(enter),
        engine.model.register_forward_hook(leave, always_call=True),
    )

    def end() -> None:
        leave()
        for handle in handles:
            handle.remove()

    return end
