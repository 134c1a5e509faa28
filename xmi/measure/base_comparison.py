"""How a VLM differs from the base LLM it was fine-tuned from, and how close their task vectors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.errors import MeasureError
from xmi.measure.result import Result
from xmi.measure.similarity import cosine_per_layer


@dataclass(frozen=True)
class BaseComparison(Result):
    """A VLM and a base LLM, aspect by aspect, and how far fine-tuning moved the weights.

    Attributes:
        vlm: Name of the VLM.
        base: Name of the base LLM.
        aspects: What was compared.
        vlm_values: What the VLM has, in words.
        base_values: What the base LLM has.
        consequences: Per aspect what a difference means for vectors of the base LLM in the VLM.
        differs: Whether they differ.
        places: Where weights were compared: `embed`, `blocks.0`, ..., `norm`, `unembed`.
        moved: Norm of the difference of the weights over the norm of the base LLM's; 0 means equal weights, NaN that
            there are no weights to compare.
    """

    vlm: str
    base: str
    aspects: tuple[str, ...]
    vlm_values: tuple[str, ...]
    base_values: tuple[str, ...]
    consequences: tuple[str, ...]
    differs: tuple[bool, ...]
    places: tuple[str, ...]
    moved: Float[np.ndarray, " place"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per aspect that differs: what both have, and what that means."""
        rows = zip(self.aspects, self.vlm_values, self.base_values, self.consequences, self.differs, strict=True)
        return tuple(
            f"{aspect}: {self.vlm} has {own}, {self.base} has {other}. {meaning}"
            for aspect, own, other, meaning, differs in rows
            if differs
        )

    @property
    def related(self) -> bool | None:
        """Whether the blocks' weights are close (the median block moved by less than half of its norm).

        Weights drawn independently differ by about 1.4 times their norm. None if the weights of some block were not
        compared.
        """
        blocks = [m for place, m in zip(self.places, self.moved, strict=True) if place.startswith("blocks.")]
        middle = np.median(blocks) if blocks else np.nan
        return None if np.isnan(middle) else bool(middle < 0.5)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per aspect: aspect, vlm, base, differs, consequence."""
        return pd.DataFrame(
            {
                "aspect": self.aspects,
                "vlm": self.vlm_values,
                "base": self.base_values,
                "differs": self.differs,
                "consequence": self.consequences,
            }
        )

    def weights(self) -> pd.DataFrame:
        """Returns one row per place: place, moved."""
        return pd.DataFrame({"place": self.places, "moved": self.moved})


@dataclass(frozen=True)
class BaseSimilarity(Result):
    """Cosine between a VLM's own task vectors and those of its base LLM, at every layer.

    Attributes:
        tasks: The tasks.
        cosine: Between the VLM's vector of the first task and the base LLM's of the second.
        centred: Whether each model's mean over its tasks was subtracted first.
    """

    tasks: tuple[str, ...]
    cosine: Float[np.ndarray, "layer task task"]
    centred: bool = False

    @property
    def same(self) -> Float[np.ndarray, "layer task"]:
        """Cosine of both models' vectors of one task."""
        found: Float[np.ndarray, "layer task"] = np.einsum("lii->li", self.cosine)
        return found

    @property
    def other(self) -> Float[np.ndarray, "layer task"]:
        """The control: mean cosine of the VLM's vector of a task with the base LLM's of all other tasks."""
        count = len(self.tasks)
        if count < 2:
            return np.full(self.same.shape, np.nan)
        found: Float[np.ndarray, "layer task"] = (self.cosine.sum(2) - self.same) / (count - 1)
        return found

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer and task, and one for their `mean`: layer, task, same, other."""
        rows = [
            (layer, task, float(same), float(other))
            for layer, (own, rest) in enumerate(zip(self.same, self.other, strict=True))
            for task, same, other in zip((*self.tasks, "mean"), (*own, own.mean()), (*rest, rest.mean()), strict=True)
        ]
        return pd.DataFrame(rows, columns=["layer", "task", "same", "other"])


def similarity_to_base(
    own: Float[np.ndarray, "task layer d_model"],
    base: Float[np.ndarray, "task layer d_model"],
    tasks: Sequence[str],
    *,
    centred: bool = False,
) -> BaseSimilarity:
    """Cosines between two models' vectors of the same tasks.

    Args:
        own: The VLM's vectors.
        base: The base LLM's vectors, in the same order.
        tasks: Their tasks.
        centred: Subtract each model's mean over tasks first, which removes what all tasks share.

    Returns:
        The cosines, raw as in the paper or centred.

    Raises:
        MeasureError: Different shapes, not one task per vector, or fewer than two tasks to centre.

    Source: Luo, Darrell and Bar, ICML 2025, section 4 (LLM to VLM).

    Examples:
        >>> own = np.random.default_rng(0).normal(size=(2, 3, 4))  # task, layer, d_model
        >>> found = measure.similarity_to_base(own, own, ["capital", "currency"])
        >>> found.same.round(2)
        array([[1., 1.],
               [1., 1.],
               [1., 1.]])
    """
    left, right = (np.asarray(v, dtype=np.float64) for v in (own, base))
    if left.ndim != 3 or left.shape != right.shape or len(tasks) != len(left) or len(set(tasks)) < len(left):
        raise MeasureError(
            f"Need vectors [task, layer, d_model] of one shape from both models and a name per task; got {left.shape}, "
            f"{right.shape} and the tasks {list(tasks)}."
        )
    if centred:
        if len(tasks) < 2:
            raise MeasureError("Centring needs two or more tasks: the mean of one vector is the vector.")
        left, right = left - left.mean(0), right - right.mean(0)
    names = [f"{model} {task}" for model in ("vlm", "base") for task in tasks]
    found = cosine_per_layer(np.concatenate([left, right]), names)
    return BaseSimilarity(tuple(tasks), found.values[:, : len(tasks), len(tasks) :], centred)
