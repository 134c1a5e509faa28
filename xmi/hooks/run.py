"""Forwards with hooks: plain Hugging Face, so what they give is what the model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int

from xmi.errors import HookError, PromptError
from xmi.hooks.cache import ActivationCache
from xmi.hooks.hooked import Hooks, Names, check_finite, hooked
from xmi.model import Engine, select
from xmi.model.modes import eager_if, gradients
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

    Examples:
        >>> logits, cache = vlm.run_with_cache(task.queries("image", n=2), names=["resid_post", "pattern"])
        >>> logits.shape  # prompt, token, vocabulary
        torch.Size([2, 15, 1112])
        >>> cache["pattern", 3].shape  # prompt, head, query token, key token
        torch.Size([2, 4, 15, 15])
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

    Examples:
        >>> def silence(value, hook):
        ...     return 0 * value
        >>> clean = vlm.run_with_hooks("France :")
        >>> ablated = vlm.run_with_hooks("France :", fwd_hooks=[("blocks.5.hook_attn_out", silence)])
        >>> ablated.shape, bool((ablated == clean).all())  # prompt, token, vocabulary
        (torch.Size([1, 4, 1112]), False)
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
    if grad:
        engine.backend.require("gradients", session.name)
    points = {name: anatomy.points[name] for name in chosen}
    inputs = engine.forward(batch.inputs, keep=keep)
    logits, kept, attention = engine.backend.cache(engine, inputs, points, slots, device=device, grad=grad)
    lacking = [n for n in chosen if n not in kept]
    if lacking and names is not None:
        raise HookError(
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''} did not run for these prompts: the model "
            "skips that part without an image. Give every prompt an image, or leave these names out."
        )
    check_finite(kept, batch.inputs["attention_mask"].bool() if slots is None else None)
    return logits, ActivationCache(kept, {**card, "attention": attention})


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


def _columns(batch: Batch, positions: str | Sequence[str]) -> Int[torch.Tensor, "row slot"]:
    names = [positions] if isinstance(positions, str) else positions
    if not isinstance(names, (list, tuple)) or not names or not all(type(n) is str for n in names):
        raise PromptError(
            f"positions={positions!r}: name the slots ('last', 'query.delimiter', 'example[-1].delimiter'); numbers "
            "mean different tokens in rows of different length."
        )
    return torch.stack([batch.columns(n) for n in names], 1)
