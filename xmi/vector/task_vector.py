"""Task vectors and where they came from.

A task vector is the mean, over prompts that specify one task, of the residual stream at a slot, at every layer (Luo,
Darrell and Bar, ICML 2025, section 3). It never travels without its card.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from xmi.arguments import outside
from xmi.errors import HookError, VectorError, XmiWarning
from xmi.measure import LensReading
from xmi.model import from_end
from xmi.names import RANDOM, label_of
from xmi.shown import Shown
from xmi.storage import pack_tensors, read_tensors, reading, write_file
from xmi.vector.reader import AnyLens, Reader

_WORDS = re.compile(r" (plus|minus|times) ")
"""How what was computed from vectors is called; `+` in a name is a mean (see `names.mean_of`)."""


class VectorCard(Shown, BaseModel):
    """What a vector was read from.

    Attributes:
        model: Name of the model.
        revision: Its commit or content hash.
        dtype: Precision the model ran in.
        task: Name of the task.
        specification: `text ICL`, `image ICL`, `instruction`, ...; operations on vectors extend it.
        shots: Examples per prompt.
        seed: Seed of the prompts.
        n: Number of prompts averaged.
        slot: Where it was read.
        template: Hash of the prompt template.
        versions: Versions of xmi, torch, transformers and nnsight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    revision: str
    dtype: str
    task: str
    specification: str
    shots: int
    seed: int
    n: int
    slot: str
    template: str
    versions: dict[str, str]


@dataclass(frozen=True)
class TaskVector(Shown):
    """A vector per layer, with its card.

    Attributes:
        values: Residual after each block, float32.
        card: Where it came from.

    Examples:
        >>> vector = vlm.task_vector(task.icl("text", n=10))
        >>> vector.name, vector.card.n, vector.values.shape  # layer, d_model
        ('country-capital · text ICL', 10, torch.Size([8, 128]))
        >>> path = vector.save("capital.safetensors")
        >>> bool((xmi.TaskVector.load(path).values == vector.values).all())
        True
        >>> vector[4].shape, vector[2:5].shape  # d_model; layer, d_model
        (torch.Size([128]), torch.Size([3, 128]))
        >>> difference = vector - vlm.task_vector(task.icl("image", n=10))
        >>> difference.name, (0.5 * difference).values.shape
        ('country-capital · text ICL minus image ICL', torch.Size([8, 128]))
    """

    values: Float[torch.Tensor, "layer d_model"]
    card: VectorCard

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "values": self.values, **_card_facts(self.card)}

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.values.shape[0])

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.values.shape[1])

    @property
    def name(self) -> str:
        """Task and specification."""
        return label_of(self.card.task, self.card.specification)

    def __getitem__(self, layer: int | slice) -> Float[torch.Tensor, "*layer d_model"]:
        """Returns the vector at a layer, or at several; -1 is the last.

        Raises:
            VectorError: There is no such layer.
        """
        if isinstance(layer, slice):
            return self.values[layer]
        try:
            return self.values[from_end(layer, self.n_layers)]
        except HookError as error:
            raise VectorError(f"{self.name}: {error}") from None

    def __iter__(self) -> Iterator[Float[torch.Tensor, " d_model"]]:
        """Iterates over the layers."""
        return iter(self.values)

    def __add__(self, other: object) -> TaskVector:
        """Returns the sum, layer by layer; for the mean there is `xmi.ensemble`.

        Raises:
            VectorError: A vector of another model, shape or template.
        """
        return self._with(other, "plus", 1.0) if isinstance(other, TaskVector) else NotImplemented

    def __sub__(self, other: object) -> TaskVector:
        """Returns the difference, layer by layer.

        Raises:
            VectorError: A vector of another model, shape or template.
        """
        return self._with(other, "minus", -1.0) if isinstance(other, TaskVector) else NotImplemented

    def __mul__(self, factor: object) -> TaskVector:
        """Returns the vector times a number.

        Raises:
            VectorError: The number is not finite.
        """
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        if not math.isfinite(factor):
            raise VectorError(f"{self.name} times {factor}: give a finite number.")
        of = self.card.specification
        name = f"{float(factor):g} times {f'({of})' if _WORDS.search(of) else of}"
        return TaskVector(self.values * float(factor), self.card.model_copy(update={"specification": name}))

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> TaskVector:
        """Returns the vector divided by a number.

        Raises:
            VectorError: The number is 0 or not finite.
        """
        if isinstance(divisor, bool) or not isinstance(divisor, Real):
            return NotImplemented
        if divisor == 0:
            raise VectorError(f"{self.name} cannot be divided by 0.")
        return self * (1.0 / float(divisor))

    def __neg__(self) -> TaskVector:
        """Returns the vector with its sign turned."""
        return self * -1.0

    def _with(self, other: TaskVector, word: str, sign: float) -> TaskVector:
        """The sum of this vector and another one times a sign; the card names both."""
        mine, its = self.card, other.card
        for what, one, two in (
            ("shape", tuple(self.values.shape), tuple(other.values.shape)),
            ("model", f"{mine.model}, revision {mine.revision}", f"{its.model}, revision {its.revision}"),
            ("prompt template", mine.template, its.template),
        ):
            if one != two:
                raise VectorError(
                    f"{self.name} {word} {other.name}: their {what} differs ({one} and {two}), so that the result "
                    "would be no vector of either. Read both alike, or compute with their values."
                )
        joined = {
            name: one if one == two else f"{one} {word} {f'({two})' if _WORDS.search(two) else two}"
            for name in ("task", "specification", "slot", "dtype")
            for one, two in [(getattr(mine, name), getattr(its, name))]
        }
        if joined["task"] == mine.task and joined["specification"] == mine.specification:
            joined["specification"] = f"{mine.specification} {word} {its.specification}"
        card = mine.model_copy(update={**joined, "n": mine.n + its.n})
        return TaskVector(self.values + sign * other.values, card)

    def decode(self, vlm: Reader, *, k: int = 5, lens: AnyLens | None = None) -> LensReading:
        """Reads the vector at each layer as a lens reads the residual stream: see `vlm.decode`.

        Args:
            vlm: The model that it was read from.
            k: Tokens per layer.
            lens: The lens, by default the logit lens.

        Returns:
            Tokens and probabilities [1, layer, k].

        Raises:
            VectorError: The vector does not fit the model.

        Examples:
            >>> vector = vlm.task_vector(task.icl("text"))
            >>> vector.decode(vlm, k=2).probabilities.shape  # one vector, layer, k
            (1, 8, 2)
        """
        if self.card.revision != vlm.revision:
            warnings.warn(
                f"{self.name} was read from {self.card.model} (revision {self.card.revision}) and is decoded by "
                f"{vlm.name} (revision {vlm.revision}), whose directions need not mean the same.",
                XmiWarning,
                stacklevel=outside(),
            )
        return vlm.decode(self.values, k=k, lens=lens)

    def save(self, path: str | Path) -> Path:
        """Writes the vector as safetensors, its card in the header, and returns the path.

        Raises:
            StorageError: It cannot be written there.
        """
        return write_file(path, self.dumps())

    def dumps(self) -> bytes:
        """Returns the content of the file that `save` writes."""
        return pack_tensors({"values": self.values}, {"card": self.card.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> TaskVector:
        """Reads a vector written by `save`.

        Raises:
            VectorError: The file does not exist, is damaged, or holds no task vector.
        """
        with reading(path, "task vector", error=VectorError):
            tensors, texts = read_tensors(path)
            values, card = tensors["values"], VectorCard.model_validate_json(texts["card"])
            if values.dim() != 2 or not values.is_floating_point():
                raise ValueError(f"values of shape {tuple(values.shape)} and {values.dtype}, not [layer, d_model]")
            return cls(values, card)


@dataclass(frozen=True)
class Residuals(Shown):
    """The residual at a slot for each prompt: what a task vector is the mean of.

    Attributes:
        values: Residual after each block, float32.
        card: Where they came from (`n` counts the prompts).
    """

    values: Float[torch.Tensor, "prompt layer d_model"]
    card: VectorCard

    def _facts(self) -> dict[str, Any]:
        return {"name": label_of(self.card.task, self.card.specification), "values": self.values} | _card_facts(
            self.card
        )

    def mean(self) -> TaskVector:
        """Returns the mean over the prompts: the task vector."""
        return TaskVector(self.values.mean(0), self.card)

    def __getitem__(self, index: slice) -> Residuals:
        """Returns some of the prompts' residuals."""
        values = self.values[index]
        return Residuals(values, self.card.model_copy(update={"n": len(values)}))


def _card_facts(card: VectorCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in ("model", "slot", "shots", "n", "seed", "dtype", "revision")}


def random_like(vector: TaskVector, seed: int = 0) -> TaskVector:
    """A random vector with the norm of the given one at each layer: the control for patching just anything.

    Args:
        vector: Whose norms to match.
        seed: Seed of the direction.

    Returns:
        Gaussian directions scaled to the vector's norm, layer by layer.

    Raises:
        VectorError: Not one task vector, or one with values that are not finite.

    Examples:
        >>> vector = vlm.task_vector(task.icl("text"))
        >>> control = xmi.random_like(vector, seed=0)
        >>> bool(np.allclose(control.values.norm(dim=-1), vector.values.norm(dim=-1)))
        True
    """
    if not isinstance(vector, TaskVector):
        raise VectorError(f"random_like takes one task vector; found {type(vector).__name__}: {vector!r:.60}.")
    check_finite(vector)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vector.values.shape, generator=generator)
    norm = vector.values.norm(dim=-1, keepdim=True)
    card = vector.card.model_copy(update={"specification": RANDOM, "seed": seed})
    return replace(vector, values=noise / noise.norm(dim=-1, keepdim=True) * norm, card=card)


def check_fits(vector: TaskVector, *, n_layers: int, d_model: int, template: str, model: str) -> None:
    """Refuses a vector that cannot be patched into a model.

    Raises:
        VectorError: Another width or depth, another prompt template, or values that are not finite.
    """
    if vector.d_model != d_model or vector.n_layers != n_layers:
        raise VectorError(
            f"{vector.name} from {vector.card.model} has {vector.n_layers} layers of width {vector.d_model}; "
            f"{model} has {n_layers} of width {d_model}. A vector only fits models of its own shape."
        )
    if vector.card.template != template:
        raise VectorError(
            f"{vector.name} was read with prompt template {vector.card.template}, the queries use {template}. "
            "Extract it again with the queries' template."
        )
    check_finite(vector)


def check_finite(vector: TaskVector) -> None:
    """Refuses a vector with NaN or infinite values.

    Raises:
        VectorError: It has some; the layers are named.
    """
    bad = (~torch.isfinite(vector.values)).any(-1).nonzero().flatten().tolist()
    if bad:
        raise VectorError(f"{vector.name} has NaN or infinite values at layers {bad}: check the dtype it was read in.")
