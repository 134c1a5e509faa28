"""How much goes to a host at once: prompts in batches, and calls in requests, of about a megabyte.

Sizes are counted from shapes, not from bytes as they travel: so the same study is cut alike in every process, under
every version of a library, and in a dry run, which makes no call. A picture's numbers were bytes once and travel as
bytes, equal ones once in a request; text takes next to nothing when it is compressed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

ROOM = 2**20
"""Bytes that pictures and vectors of a request should not exceed."""


@dataclass(frozen=True)
class Load:
    """What a call brings.

    Attributes:
        pictures: Bytes of each picture, or part of one, by what it is: equal ones travel once in a request.
        others: Bytes of each other thing; vectors that are patched into all prompts go along with every part.
    """

    pictures: Mapping[Hashable, int] = field(default_factory=dict)
    others: Mapping[Hashable, int] = field(default_factory=dict)


def picture_bytes(inputs: Mapping[str, Any], images: int) -> int:
    """Bytes of one picture of an encoded batch, the mean if they differ in size."""
    floats = [value for value in inputs.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return sum(value.numel() for value in floats) // images if images else 0


def cut_prompts(images: Sequence[Sequence[object]], each: int) -> list[int]:
    """Cuts prompts into batches whose distinct pictures take no more than `ROOM`; at least one prompt in each.

    Args:
        images: The pictures of every prompt.
        each: Bytes of a picture.

    Returns:
        How many prompts are in each batch.
    """
    sizes, seen = list[int](), set[str]()
    for shown in images:
        names = {str(image) for image in shown}
        if sizes and len(seen | names) * each <= ROOM:
            sizes[-1] += 1
            seen |= names
        else:
            sizes.append(1)
            seen = names
    return sizes


def cut_calls(loads: Iterable[Load]) -> list[int]:
    """Cuts calls into requests of no more than `ROOM`, as far as that helps.

    A call goes whole, so that it gives the same numbers in whichever request it is. Vectors are repeated in every part:
    where they alone fill a request, parts have as many bytes of pictures as of vectors, so that no more than twice as
    much travels.

    Args:
        loads: What each call brings, in their order.

    Returns:
        How many calls are in each request.
    """
    sizes, pictures, others = list[int](), dict[Hashable, int](), dict[Hashable, int]()
    for load in loads:
        seen, rest = {**pictures, **load.pictures}, {**others, **load.others}
        shown, repeated = sum(seen.values()), sum(rest.values())
        if sizes and (shown + repeated <= ROOM or shown <= repeated):
            sizes[-1] += 1
            pictures, others = seen, rest
        else:
            sizes.append(1)
            pictures, others = dict(load.pictures), dict(load.others)
    return sizes
