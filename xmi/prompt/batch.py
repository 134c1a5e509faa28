"""An encoded batch that knows the segment and modality of every token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from xmi.errors import SlotError
from xmi.prompt.prompt import Prompt
from xmi.prompt.token_roles import PADDING, SPECIAL
from xmi.shown import Shown

Side = Literal["left", "right"]
_SLOT = re.compile(r"(?:example\[(?P<example>-?\d+)\]\.|(?P<query>query)\.)?(?P<role>[a-z]+)")


@dataclass(frozen=True)
class Batch(Shown):
    """Encoded prompts, padded on one side.

    Attributes:
        inputs: What the model's forward takes.
        prompts: The prompts, one per row.
        first: Number of the segment in which each token begins, or `PADDING` / `SPECIAL`.
        last: Number of the segment in which each token ends.
        tokens: The tokens as the vocabulary has them, for messages and figures.
        patches: Tile, row and column that each image token looks at; -1 where there is none or it cannot be known.
    """

    inputs: dict[str, torch.Tensor]
    prompts: tuple[Prompt, ...]
    first: Int[np.ndarray, "row column"]
    last: Int[np.ndarray, "row column"]
    tokens: tuple[tuple[str, ...], ...]
    patches: Int[np.ndarray, "row column 3"]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.prompts)

    def roles(self, row: int) -> tuple[str, ...]:
        """Returns each token's segment (`example[0].input`, `query.delimiter`, ...), or `padding`, or `special`."""
        names = {PADDING: "padding", SPECIAL: "special"}
        segments = self.prompts[row].segments
        return tuple(names[i] if i < 0 else segments[i].name for i in self.first[row].tolist())

    def modalities(self, row: int) -> tuple[str, ...]:
        """Returns `text`, `image 0`, `image 1`, ... for each token, or `padding`."""
        segments = self.prompts[row].segments
        order = [i for i, s in enumerate(segments) if s.image is not None]
        number = {i: f"image {k}" for k, i in enumerate(order)}
        return tuple("padding" if i == PADDING else number.get(i, "text") for i in self.first[row].tolist())

    def places(self, row: int) -> Int[np.ndarray, "column 3"]:
        """Returns tile, row and column in the picture for each token; -1 where there is none or it cannot be known.

        Tiles are counted as the processor orders them. Text, what frames an image, and the latents of a resampler
        have no place.
        """
        found: Int[np.ndarray, "column 3"] = self.patches[row]
        return found

    def columns(self, slot: str = "last") -> Int[torch.Tensor, " row"]:
        """Finds a named slot in every row.

        Args:
            slot: `last`, or a segment's address, whose last token it is: `query.delimiter`, `example[-1].delimiter`,
                `example[0].answer`, `instruction`.

        Returns:
            The column of the slot's token in each row.

        Raises:
            SlotError: A row has no such segment, or the token reaches into the next segment.
        """
        return torch.tensor([self._column(row, slot) for row in range(len(self))])

    def padded(self, side: Side) -> Batch:
        """The same batch, padded on the side that is asked for."""
        order = _order(self.inputs["attention_mask"], side)
        if bool((order == torch.arange(order.shape[1], device=order.device)).all()):
            return self
        inputs, columns = dict(self.inputs), order.cpu().numpy()
        arrange(inputs, side)
        first, last = (np.take_along_axis(of, columns, 1) for of in (self.first, self.last))
        tokens = tuple(tuple(row[i] for i in at) for row, at in zip(self.tokens, columns.tolist(), strict=True))
        patches = np.take_along_axis(self.patches, columns[..., None], 1)
        return Batch(inputs, self.prompts, first, last, tokens, patches)

    def _column(self, row: int, slot: str) -> int:
        if slot == "last":
            return int(np.flatnonzero(self.first[row] != PADDING)[-1])
        try:
            wanted = find_segment(self.prompts[row], slot)
        except SlotError as error:
            raise SlotError(f"Prompt {row}: {error}") from error
        inside = np.flatnonzero((self.first[row] <= wanted) & (self.last[row] >= wanted) & (self.first[row] >= 0))
        if not len(inside):
            raise SlotError(f"Slot {slot!r} has no token of its own in prompt {row}: {self._shown(row)}")
        column = int(inside[-1])
        if int(self.last[row, column]) != wanted:
            raise SlotError(
                f"Slot {slot!r} is ambiguous in prompt {row}: its last token {self.tokens[row][column]!r} also holds "
                f"the beginning of what follows. Change the template so that the two are separate tokens. "
                f"Tokens: {self._shown(row)}"
            )
        return column

    def _shown(self, row: int) -> str:
        shown = [repr(t) for t, i in zip(self.tokens[row], self.first[row], strict=True) if i != PADDING]
        return " ".join(shown[-40:])


def find_segment(prompt: Prompt, slot: str) -> int:
    """Finds the segment that a slot names, in a prompt that no model has encoded yet.

    Args:
        prompt: The prompt.
        slot: As in `Batch.columns`.

    Returns:
        Its number; of several with one name, that of the last.

    Raises:
        SlotError: The prompt has no such segment.
    """
    names = [s.name for s in prompt.segments]
    if slot == "last":
        return len(names) - 1
    match = _SLOT.fullmatch(slot)
    if match is None:
        raise SlotError(f"Cannot read slot {slot!r}; write last, query.delimiter or example[-1].delimiter.")
    wanted = slot
    if match["example"] is not None and int(match["example"]) < 0:
        count = 1 + max((s.example for s in prompt.segments if s.example is not None), default=-1)
        wanted = f"example[{count + int(match['example'])}].{match['role']}"
    if wanted not in names:
        raise SlotError(f"there is no slot {slot!r}; there are: last, {', '.join(dict.fromkeys(names))}.")
    return len(names) - 1 - names[::-1].index(wanted)


def arrange(inputs: dict[str, torch.Tensor], side: Side) -> None:
    """Moves padding to its side where a processor left it elsewhere, in everything that is given per token."""
    shape = inputs["input_ids"].shape
    order = _order(inputs["attention_mask"], side)
    if bool((order == torch.arange(shape[1], device=order.device)).all()):
        return
    for name, value in inputs.items():
        # Ids and mask of another tokenizer (a Q-Former's) may happen to be as long.
        other = (
            value.dim() == 2
            and name not in ("input_ids", "attention_mask")
            and str(name).endswith(("_input_ids", "_attention_mask"))
        )
        if value.shape[:2] == shape and not other:
            index = order.reshape(*shape, *[1] * (value.dim() - 2)).expand_as(value)
            inputs[name] = value.gather(1, index)


def _order(mask: Int[torch.Tensor, "row column"], side: Side) -> Int[torch.Tensor, "row column"]:
    """Which column of each row comes where when padding is moved to one side."""
    return (mask if side == "left" else 1 - mask).argsort(dim=1, stable=True)
