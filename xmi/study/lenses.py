"""Lenses that a study can read phases with. One entry each, from which plan, cells and reading follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the command line needs the names for --help, and must not wait for torch
    from xmi.lens.base import Lens
    from xmi.prompt import Prompts
    from xmi.vlm import VLM


class Trained(Protocol):
    """A lens that was trained."""

    def dumps(self) -> bytes:
        """The content of a safetensors file."""


@dataclass(frozen=True)
class StudyLens:
    """A lens of a study.

    Attributes:
        name: What plans call it.
        train: Trains it on the model, given the prompts that vectors are read on and a seed; None if it needs none.
        load: Reads what `train` gave from its file; None for the logit lens, which needs nothing.
    """

    name: str
    train: Callable[[VLM, Sequence[Prompts], int], Trained] | None = None
    load: Callable[[Path], Lens] | None = None


def _tune(vlm: VLM, prompts: Sequence[Prompts], seed: int) -> Trained:
    return vlm.tune_lens(prompts, seed=seed)


def _tuned(path: Path) -> Lens:
    from xmi.lens import TunedLens

    return TunedLens.load(path)


REGISTRY = {
    lens.name: lens
    for lens in (
        StudyLens("logit"),
        StudyLens("tuned", _tune, _tuned),
    )
}

LENSES = tuple(REGISTRY)
"""What phases can be read with."""
