"""A plain forward in this process that keeps activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch

from xmi.backend.base import Kept, Slots
from xmi.model.check import Inputs
from xmi.model.engine import Engine
from xmi.model.guard import Block
from xmi.model.hook_points import Point
from xmi.model.modes import eager_if, gradients, warn_of_eager


def cached_forward(
    engine: Engine,
    inputs: Inputs,
    points: Mapping[str, Point],
    slots: Slots | None,
    *,
    device: str | torch.device | None,
    grad: bool,
) -> Kept:
    """One forward that keeps activations; see `Backend.cache`."""
    shelf = _Shelf(slots, whole=grad)
    patterns, block = any(point.pattern for point in points.values()), Block(engine.guard)
    with engine.alone(), ExitStack() as stack:
        if patterns:
            warn_of_eager(engine)
        stack.enter_context(eager_if(engine, patterns))
        for name, point in points.items():
            keeper = shelf.keeper(block, name, point.pattern, device)
            stack.callback(point.attach(engine.model, keeper).remove)
        with block.opened(), gradients(grad):
            logits = engine.model(**inputs).logits
        used = engine.attention
    return Kept(shelf.cut(logits), {name: shelf.kept[name] for name in points if name in shelf.kept}, used)


def _unplaced(name: str) -> bool:
    """Whether an activation has no position axis of the prompt's: image features before they enter the prompt."""
    return name in ("vision.hook_out", "projector.hook_out")


class _Shelf:
    """Activations of one forward, cut to the slots that are wanted.

    Attributes:
        kept: By hook name.
    """

    def __init__(self, slots: Slots | None, *, whole: bool = False) -> None:
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
