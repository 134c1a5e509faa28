"""Forwards with hooks: plain Hugging Face, so what they give is what the model gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int

from xmi.errors import HookError, ModelError, PromptError
from xmi.hooks.cache import ActivationCache
from xmi.hooks.hooked import Hooks, Names, check_finite, eager_if, hooked, warn_of_eager
from xmi.kernels import cache_kernel
from xmi.model import Block, Engine, select
from xmi.prompt import Batch, PromptLike
from xmi.session import Session


def run_with_cache(
    session: Session,
    prompt: PromptLike,
    *,
    names: Names | None = None,
    positions: str | Sequence[str] | None = None,
    device: str | torch.device | None = None,
    padding_side: Literal["left", "right"] = "left",
    grad: bool = False,
) -> tuple[Float[torch.Tensor, "batch position vocab"], ActivationCache]:
    """Runs the model and keeps activations, as TransformerLens does; images and batches included.

    Args:
        prompt: What `encode` takes (images stand in prompts: `xmi.free_prompt("Q:<image>", image)`).
        names: Which hooks: full names (`blocks.5.hook_resid_post`), short ones that mean all layers
            (`resid_post`, `z`), or a predicate; by default all but attention patterns. Patterns switch to eager
            attention for this call, with a warning.
        positions: Slots to keep (`"last"`, `["query.delimiter", "last"]`), of activations and logits alike; by
            default all positions.
        device: Where activations are kept; by default where they arise.
        padding_side: Side on which shorter prompts of a batch are padded.
        grad: Record gradients. Activations at all positions (no `positions`, no `device`) are then the very tensors
            that the forward goes on with, so that `torch.autograd.grad(loss, cache["resid_post", 3])` is the
            gradient there.

    Returns:
        Logits [batch, position, vocab], and the activations by name.

    Raises:
        HookError: A name that the model does not have, or NaN in an activation.
        SlotError: A prompt lacks the slot.
    """
    with session.encoded(prompt, padding_side=padding_side) as batch:
        card = session.card(
            n_layers=session.backbone.n_layers,
            prompts=[p.text for p in batch.prompts],
            tokens=[list(row) for row in batch.tokens],
            positions=positions,
            padding_side=padding_side,
        )
        return _kept(session, batch, names, positions, device, card, grad=grad)


def run_with_hooks(
    session: Session,
    prompt: PromptLike,
    *,
    fwd_hooks: Hooks = (),
    bwd_hooks: Hooks = (),
    grad: bool = False,
    padding_side: Literal["left", "right"] = "left",
) -> Float[torch.Tensor, "batch position vocab"]:
    """Runs the model with hook functions, as TransformerLens does.

    Args:
        prompt: What `encode` takes.
        fwd_hooks: Pairs of names (as in `run_with_cache`) and a function of the activation and its `Hook`, which
            returns what takes the activation's place, or None.
        bwd_hooks: The same for gradients: called with the gradient of what is backpropagated from the logits with
            respect to the activation, when `backward` comes by.
        grad: Record gradients, so that `logits[...].backward()` flows through the model and the hooks, to tensors
            that these bring in and to the model's parameters. Without it, and without `bwd_hooks`, none are.
        padding_side: Side on which shorter prompts of a batch are padded.

    Returns:
        Logits of all positions.

    Raises:
        HookError: What is not a list of such pairs, an unknown name, or a function that returns another shape or
            dtype, or NaN; or gradients are asked for and nothing has any.
    """
    engine, anatomy = session.engine, session.report.anatomy
    with session.encoded(prompt, padding_side=padding_side) as batch, hooked(engine, anatomy, fwd_hooks, bwd_hooks):
        return run(engine, batch, grad=grad or bool(bwd_hooks))


def _kept(
    session: Session,
    batch: Batch,
    names: Names | None,
    positions: str | Sequence[str] | None,
    device: str | torch.device | None,
    card: dict[str, Any],
    *,
    grad: bool = False,
) -> tuple[Float[torch.Tensor, "batch position vocab"], ActivationCache]:
    """One forward that keeps activations."""
    engine, anatomy = session.engine, session.report.anatomy
    everything = list(anatomy.points)
    chosen = (
        [n for n in everything if not anatomy.points[n].pattern]
        if names is None
        else select(names, everything, anatomy.missing)
    )
    length = batch.inputs["input_ids"].shape[1]
    slots = None if positions is None else _columns(batch, positions) - length
    keep = length if slots is None else -int(slots.min())
    if engine.host is not None:
        if grad:
            raise ModelError("Gradients stay where the model is: load it here, or take them in vlm.trace(...).")
        places = [[anatomy.points[n].module, anatomy.points[n].side] for n in chosen]
        [(logits, values)] = engine.map(cache_kernel, [(engine.forward(batch.inputs, keep=keep), places, slots)])
        kept = {n: value.to(device) if device is not None else value for n, value in zip(chosen, values, strict=True)}
        check_finite(kept, batch.inputs["attention_mask"].bool() if slots is None else None)
        return logits, ActivationCache(kept, {**card, "attention": str(engine.host.facts.get("attention", ""))})
    shelf = _Shelf(slots, whole=grad)
    patterns, block = any(anatomy.points[n].pattern for n in chosen), Block(engine.guard)
    with engine.alone(), ExitStack() as stack:
        if patterns:
            warn_of_eager(engine)
        stack.enter_context(eager_if(engine, patterns))
        for name in chosen:
            point = anatomy.points[name]
            keeper = shelf.keeper(block, name, point.pattern, device)
            stack.callback(point.attach(engine.model, keeper).remove)
        with block.opened(), gradients(grad):
            logits = engine.model(**engine.forward(batch.inputs, keep=keep)).logits
        used = engine.attention
    lacking = [n for n in chosen if n not in shelf.kept]
    if lacking and names is not None:
        raise HookError(
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''} did not run for these prompts: the model "
            "skips that part without an image. Give every prompt an image, or leave these names out."
        )
    kept = {n: shelf.kept[n] for n in chosen if n in shelf.kept}
    check_finite(kept, batch.inputs["attention_mask"].bool() if slots is None else None)
    return shelf.cut(logits), ActivationCache(kept, {**card, "attention": used})


def run(engine: Engine, batch: Batch, *, grad: bool = False) -> Float[torch.Tensor, "batch position vocab"]:
    """Logits of every position of a plain forward.

    Raises:
        HookError: Gradients are asked for, and nothing in the forward has any.
    """
    length = batch.inputs["input_ids"].shape[1]
    with engine.alone(), eager_if(engine), gradients(grad):
        logits: torch.Tensor = engine.model(**engine.forward(batch.inputs, keep=length)).logits
    if grad and not logits.requires_grad:
        raise HookError(
            "grad=True, but nothing in this forward has a gradient: give a parameter, or a tensor that a hook brings "
            "in, requires_grad=True."
        )
    return logits


@contextmanager
def gradients(wanted: bool) -> Iterator[None]:
    """Runs with or without gradients, whatever the surroundings are.

    Raises:
        HookError: They are wanted where torch records none.
    """
    if wanted and torch.is_inference_mode_enabled():
        raise HookError("grad=True has no effect inside torch.inference_mode(): leave that out.")
    with torch.set_grad_enabled(wanted):
        yield


def _columns(batch: Batch, positions: str | Sequence[str]) -> Int[torch.Tensor, "row slot"]:
    names = [positions] if isinstance(positions, str) else positions
    if not isinstance(names, (list, tuple)) or not names or not all(type(n) is str for n in names):
        raise PromptError(
            f"positions={positions!r}: name the slots ('last', 'query.delimiter', 'example[-1].delimiter'); numbers "
            "mean different tokens in rows of different length."
        )
    return torch.stack([batch.columns(n) for n in names], 1)


def _unplaced(name: str) -> bool:
    """Whether an activation has no position axis of the prompt's: image features before they enter the prompt."""
    return name in ("vision.hook_out", "projector.hook_out")


class _Shelf:
    """Activations of one forward, cut to the slots that are wanted.

    Attributes:
        kept: By hook name.
    """

    def __init__(self, slots: Int[torch.Tensor, "row slot"] | None, *, whole: bool = False) -> None:
        """Takes what is wanted.

        Args:
            slots: The slots' columns, counted from the end, or None for all positions.
            whole: Without slots, keep the very tensors that the forward goes on with, so that there are gradients with
                respect to them.
        """
        self.kept: dict[str, torch.Tensor] = {}
        self.slots = slots
        self.whole = whole and slots is None
        # With left padding the last token stands in one column; a slice of it is cheaper than an index.
        shared = slots is not None and slots.shape[1] == 1 and bool((slots == slots[0]).all())
        self.column = int(slots[0, 0]) if slots is not None and shared else None
        self.placed: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def keeper(
        self, block: Block, name: str, pattern: bool, device: str | torch.device | None
    ) -> Callable[[torch.Tensor], torch.Tensor | None]:
        """What keeps one activation when it is handed it, in the forward that the block is open for."""

        def keep(value: torch.Tensor) -> torch.Tensor | None:
            if not block.acts:
                return None
            part = value if _unplaced(name) else self.cut(value, 2 if pattern else 1)
            part = part.to(device) if device is not None else part
            if not self.whole:  # a view would hold the whole
                same = part.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
                part = part.clone() if same else part
            # A tower may look at tiles one by one.
            again = name in self.kept and _unplaced(name)
            self.kept[name] = torch.cat([self.kept[name], part]) if again else part
            return value if self.whole else None

        return keep

    def cut(self, value: torch.Tensor, axis: int = 1) -> torch.Tensor:
        """The slots' part of something [row, position, ...], or with axis 2 [row, head, position, ...]."""
        if self.slots is None:
            return value
        if self.column is not None:
            return value.narrow(axis, value.shape[axis] + self.column, 1)
        if value.device not in self.placed:
            rows = torch.arange(len(self.slots), device=value.device)[:, None]
            self.placed[value.device] = (rows, self.slots.to(value.device))
        rows, columns = self.placed[value.device]
        return value[rows, columns] if axis == 1 else value[rows, :, columns].transpose(1, 2)
