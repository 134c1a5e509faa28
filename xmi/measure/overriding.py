"""Who wins: the task in the prompt, or the task of a vector that is patched in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from xmi.errors import MeasureError, NotMeasuredError
from xmi.measure.paired import paired
from xmi.measure.result import Result
from xmi.measure.stats import Proportion, accuracy
from xmi.names import RANDOM

WINNERS = ("prompt", "patched", "neither", "ambiguous")
"""Whose label was answered; ambiguous: the first token is a hit of both."""

METHODS = ("no patch", "system prompt", "patch", RANDOM)
"""What was done to the prompt; the first two know no layer."""


@dataclass(frozen=True)
class Overriding(Result):
    """Answers to prompts of one task while another task is patched in, told or left out.

    Runs are, in this order: no patch, system prompt (the other task's instruction before the prompt), the other task's
    vector patched after each of the layers, a random vector of its norm patched after each of the layers.

    Attributes:
        context: Specification of the prompt's task.
        source: Specification of the patched vector.
        layers: The layers that were patched.
        tasks: The prompt's task, per query.
        others: The patched task, per query.
        units: Task and input of each query, as in all results.
        splits: `validation` (chooses the layer) or `test` (is reported), per query.
        predicted: Text of the top token, by run and query.
        paper: Hits by the paper's rule; `label` 0 is that of the prompt's task, 1 that of the patched one.
        strict: Hits by exact first token.
        inputs: The input of each query. Both tasks of a pair ask the same inputs, so that these are what intervals
            count; empty if the units are.
    """

    context: str
    source: str
    layers: tuple[int, ...]
    tasks: tuple[str, ...]
    others: tuple[str, ...]
    units: tuple[str, ...]
    splits: tuple[str, ...]
    predicted: tuple[tuple[str, ...], ...]
    paper: Bool[np.ndarray, "label run query"]
    strict: Bool[np.ndarray, "label run query"]
    inputs: tuple[str, ...] = ()

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Pools pairs of tasks; each pair weighs the same in every share.

        Raises:
            MeasureError: No parts, or parts of other layers or specifications.
        """
        fixed = ("context", "source", "layers")
        if not parts or any(getattr(p, k) != getattr(parts[0], k) for p in parts for k in fixed):
            raise MeasureError(f"concat needs at least one Overriding, all with the same {', '.join(fixed)}.")
        runs = range(len(parts[0].predicted))
        kept: dict[str, Any] = {k: getattr(parts[0], k) for k in fixed}
        for k in ("tasks", "others", "units", "splits", "inputs"):
            kept[k] = tuple(v for p in parts for v in getattr(p, k))
        for k in ("paper", "strict"):
            kept[k] = np.concatenate([getattr(p, k) for p in parts], -1)
        return cls(predicted=tuple(tuple(t for p in parts for t in p.predicted[r]) for r in runs), **kept)

    def winners(self, score: str = "paper") -> Int[np.ndarray, "run query"]:
        """Returns who won, as index into `WINNERS`.

        Raises:
            MeasureError: An unknown score.
        """
        if score not in ("paper", "strict"):
            raise MeasureError(f"Unknown score {score!r}; use 'paper' or 'strict'.")
        prompt, patched = getattr(self, score)
        return np.select([prompt & patched, prompt, patched], [3, 0, 1], 2)

    def share(
        self, winner: str, method: str = "patch", layer: int | None = None, *, score: str = "paper", split: str = "test"
    ) -> Proportion:
        """How often someone wins.

        Args:
            winner: One of `WINNERS`.
            method: One of `METHODS`.
            layer: After which layer was patched; by default `best_layer`.
            score: `paper` or `strict`.
            split: `test`, or `validation`.

        Returns:
            The share of queries, mean over pairs of tasks, with its Wilson interval.

        Raises:
            NotMeasuredError: Unknown winner, method or layer.
            MeasureError: An unknown score.
        """
        if winner not in WINNERS:
            raise NotMeasuredError(f"Unknown winner {winner!r}; use one of {', '.join(WINNERS)}.")
        run = self._run(method, layer, score)
        own = np.array(self.splits) == split
        asked = np.array(self.inputs or self.units)[own]
        return accuracy(self.winners(score)[run, own] == WINNERS.index(winner), asked, self._pairs()[own])

    @property
    def best_layer(self) -> int:
        """The layer after which the patched task wins most often on validation queries (`paper`)."""
        return self.best_layer_of("paper")

    def best_layer_of(self, score: str) -> int:
        """The layer after which the patched task wins most often on validation queries.

        Returns:
            The layer; among equal ones that at which the prompt's task wins least, then the earliest.

        Raises:
            MeasureError: There are no validation queries.
        """
        if "validation" not in self.splits:
            raise MeasureError("There are no validation queries to choose a layer on: name the layer.")
        keys = [
            (
                self.share("patched", layer=layer, score=score, split="validation").mean,
                -self.share("prompt", layer=layer, score=score, split="validation").mean,
                -layer,
            )
            for layer in self.layers
        ]
        return self.layers[keys.index(max(keys))]

    def gain(self, score: str = "paper") -> pd.DataFrame:
        """How much more often the other task wins by the patch than otherwise, on the same test queries.

        Returns:
            One row per other method: against, patch, other (shares), gain (their difference), low, high (95 % bootstrap
            interval), p (sign flips), n. The layer is `best_layer_of(score)`.

        Source: Luo, Darrell and Bar, ICML 2025, section 5 (task overriding).
        """
        own = np.array(self.splits) == "test"
        won = self.winners(score)[:, own] == WINNERS.index("patched")
        patch = won[self._run("patch", None, score)].astype(float)
        rows = []
        for method in ("system prompt", "no patch", RANDOM):
            other = won[self._run(method, None, score)].astype(float)
            found = paired((patch - other)[:, None], self._pairs()[own])
            shares = [self.share("patched", m, score=score).mean for m in ("patch", method)]
            rows.append((method, *shares, *(float(v[0]) for v in (found.difference, found.low, found.high, found.p))))
        return pd.DataFrame(rows, columns=["against", "patch", "other", "gain", "low", "high", "p"]).assign(
            n=int(own.sum())
        )

    def to_frame(self, *, split: str = "test") -> pd.DataFrame:
        """Returns one row per method, layer (None where there is none), score and winner: share, low, high, n."""
        rows = []
        for score in ("paper", "strict"):
            for method in METHODS:
                for layer in (None,) if method in METHODS[:2] else self.layers:
                    for winner in WINNERS:
                        p = self.share(winner, method, layer, score=score, split=split)
                        rows.append((method, layer, score, winner, p.mean, p.low, p.high, p.n))
        names = ["method", "layer", "score", "winner", "share", "low", "high", "n"]
        return pd.DataFrame(rows, columns=names).astype({"layer": "Int64"})

    def _pairs(self) -> np.ndarray:
        return np.array([f"{a} <- {b}" for a, b in zip(self.tasks, self.others, strict=True)])

    def _run(self, method: str, layer: int | None, score: str) -> int:
        if method not in METHODS:
            raise NotMeasuredError(f"Unknown method {method!r}; use one of {', '.join(METHODS)}.")
        place = METHODS.index(method)
        if place < 2:
            return place
        chosen = self.best_layer_of(score) if layer is None else layer
        if chosen not in self.layers:
            raise NotMeasuredError(f"Layer {chosen} was not patched; the layers are {list(self.layers)}.")
        return 2 + (place - 2) * len(self.layers) + self.layers.index(chosen)
