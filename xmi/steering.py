"""Steering: a vector is added to the residual stream, or taken out of it, while a `with` block is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeVar

import torch
from jaxtyping import Float

from xmi.errors import HookError, VectorError
from xmi.hooks import Hook
from xmi.hooks.hooked import hooked
from xmi.model import from_end
from xmi.session import Session
from xmi.vector import TaskVector
from xmi.vector.foreign import announce_foreign

S = TypeVar("S", bound=Session)
Mode = Literal["add", "project out"]


@contextmanager
def steer(
    session: S,
    vector: TaskVector | Float[torch.Tensor, " d_model"],
    layer: int | Sequence[int],
    strength: float = 1.0,
    *,
    mode: Mode = "add",
) -> Iterator[S]:
    r"""Steers every forward inside the `with` block: each token's residual is changed after the layers that are named.

    `generate`, `answers`, `run_with_cache`, `run_with_hooks` and the model itself run steered, images included; what
    reads the residual stream in a trace (task vectors, lenses, transfers) is refused. Blocks may stand in one another:
    the outer one acts first.

    Args:
        vector: A task vector, of which each layer's own value is taken, or one direction for all layers.
        layer: After which block or blocks; -1 is the last.
        strength: With `add`, the factor of the vector; with `project out`, the share of its direction that is taken
            out (1 is all of it).
        mode: `add` (residual + strength * vector), or `project out` (residual - strength * its part along the vector).

    Raises:
        VectorError: A vector of another width or depth, with NaN, or of length 0 where it is to be projected out; no,
            unknown or repeated layers.
        HookError: A block's residual stream cannot be written in this model (it says why), or the model is on a host.

    Source: Turner et al., "Steering Language Models With Activation Engineering", 2023 (add); Arditi et al., "Refusal
    in Language Models Is Mediated by a Single Direction", 2024 (project out).

    Examples:
        >>> query = xmi.free_prompt("Q:France\nA:")
        >>> vector = vlm.task_vector(task.icl("text"))
        >>> vlm.generate(query, max_new_tokens=1).texts
        ('Franc',)
        >>> with vlm.steer(vector, layer=4):
        ...     made = vlm.generate(query, max_new_tokens=1)
        >>> made.texts, made.ids.shape  # row, new token
        (('Paris',), torch.Size([1, 1]))
    """
    layers = _layers(layer, session.backbone.n_layers)
    values = _values(session, vector, layers)
    if not torch.isfinite(torch.tensor(strength)):
        raise VectorError(f"strength={strength}: give a finite number.")
    write: Callable[..., torch.Tensor] = _added if mode == "add" else _projected
    if mode == "project out":
        norms = values.norm(dim=-1)
        if not bool((norms > 0).all()):
            raise VectorError(f"The vector has length 0 at layers {_zero(norms, layers)}: it has no direction there.")
        values = values / norms[:, None]
    pairs = [
        (f"blocks.{number}.hook_resid_post", partial(write, along=value, strength=strength))
        for number, value in zip(layers, values, strict=True)
    ]
    with hooked(session.engine, session.report.anatomy, pairs, steers=True):
        yield session


def _added(value: torch.Tensor, hook: Hook, along: torch.Tensor, strength: float) -> torch.Tensor:
    return value + (strength * along).to(value)


def _projected(value: torch.Tensor, hook: Hook, along: torch.Tensor, strength: float) -> torch.Tensor:
    state, unit = value.float(), along.to(value.device)
    return (state - strength * (state @ unit)[..., None] * unit).to(value)


def _zero(norms: torch.Tensor, layers: Sequence[int]) -> list[int]:
    return [layer for layer, norm in zip(layers, norms.tolist(), strict=True) if norm == 0]


def _layers(given: int | Sequence[int], count: int) -> tuple[int, ...]:
    several = list(given) if isinstance(given, (list, tuple, range)) else [given]
    try:
        layers = tuple(from_end(layer, count) for layer in several)
    except HookError:
        layers = ()
    if not layers or len(set(layers)) < len(layers):
        raise VectorError(
            f"Cannot steer after layer {given!r}: give one, or a list of distinct ones, from 0 to {count - 1}, or, "
            f"counted from the end, from -1 to {-count}."
        )
    return layers


def _values(
    session: Session, vector: TaskVector | torch.Tensor, layers: Sequence[int]
) -> Float[torch.Tensor, "layer d_model"]:
    """What is written after each of the layers."""
    width, count = session.backbone.d_model, session.backbone.n_layers
    if isinstance(vector, TaskVector):
        if (vector.n_layers, vector.d_model) != (count, width):
            raise VectorError(
                f"{vector.name} from {vector.card.model} has {vector.n_layers} layers of width {vector.d_model}; "
                f"{session.name} has {count} of width {width}. A vector only fits models of its own shape."
            )
        announce_foreign([vector], session)
        values = vector.values[list(layers)]
    else:
        if tuple(vector.shape) != (width,):
            raise VectorError(
                f"The direction has shape {list(vector.shape)}; {session.name} takes one of shape [{width}], or a task "
                "vector."
            )
        values = vector.expand(len(layers), -1)
    values = values.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise VectorError("The vector has NaN or infinite values at the layers that are steered.")
    return values
