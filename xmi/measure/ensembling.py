"""Accuracy against the number of examples behind a task vector, with and without the instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool

from xmi.errors import MeasureError, NotMeasuredError
from xmi.measure.paired import paired
from xmi.measure.result import Result
from xmi.measure.stats import Proportion, accuracy


@dataclass(frozen=True)
class EnsembleCurve(Result):
    """Task vectors of more and more examples, each alone and averaged with the instruction's vector.

    Attributes:
        source: Specification of the examples.
        target: Modality of the queries.
        layer: Where was patched, chosen on validation queries.
        shots: Examples per prompt.
        examples: Examples behind each vector: prompts averaged times shots.
        seeds: Seeds of the examples; the vectors of one seed are nested.
        tasks: Task of each query; accuracies are means over tasks.
        units: Task and input of each query.
        paper: Hits by the paper's rule; `kind` 0 is without the instruction's vector, 1 with it.
        strict: Hits by exact first token.
        told_paper: Hits of the instruction's vector alone, by the paper's rule.
        told_strict: By exact first token.
        clean_paper: Hits without a patch (no context), by the paper's rule.
        clean_strict: By exact first token.
    """

    source: str
    target: str
    layer: int
    shots: int
    examples: tuple[int, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    units: tuple[str, ...]
    paper: Bool[np.ndarray, "kind examples seed query"]
    strict: Bool[np.ndarray, "kind examples seed query"]
    told_paper: Bool[np.ndarray, " query"]
    told_strict: Bool[np.ndarray, " query"]
    clean_paper: Bool[np.ndarray, " query"]
    clean_strict: Bool[np.ndarray, " query"]

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Pools the queries of several curves (tasks) that differ in nothing else.

        Raises:
            MeasureError: No parts, or parts of other examples, seeds, layers or modalities.
        """
        fixed = ("source", "target", "layer", "shots", "examples", "seeds")
        if not parts or any(getattr(p, k) != getattr(parts[0], k) for p in parts for k in fixed):
            raise MeasureError(f"concat needs at least one EnsembleCurve, all with the same {', '.join(fixed)}.")
        kept: dict[str, Any] = {k: getattr(parts[0], k) for k in fixed}
        for name in (f.name for f in fields(cls) if f.name not in fixed):
            values = [getattr(p, name) for p in parts]
            words = name in ("tasks", "units")
            kept[name] = tuple(v for value in values for v in value) if words else np.concatenate(values, -1)
        return cls(**kept)

    def accuracy(self, examples: int, *, instruction: bool = False, score: str = "paper") -> Proportion:
        """Accuracy of the vectors of so many examples, seeds averaged per query, with its Wilson interval over units.

        Raises:
            MeasureError: An unknown score.
            NotMeasuredError: So many examples were not measured.
        """
        hits = self._hits(score)[int(instruction), self._index(examples)]
        seeds = len(self.seeds)
        return accuracy(hits.ravel(), np.tile(self.units, seeds), np.tile(self.tasks, seeds))

    def instruction(self, score: str = "paper") -> Proportion:
        """Returns the accuracy of the instruction's vector alone."""
        self._hits(score)
        return accuracy(self.told_paper if score == "paper" else self.told_strict, self.units, self.tasks)

    def no_context(self, score: str = "paper") -> Proportion:
        """Returns the accuracy of the same queries without a patch."""
        self._hits(score)
        return accuracy(self.clean_paper if score == "paper" else self.clean_strict, self.units, self.tasks)

    def gain(self, score: str = "paper") -> pd.DataFrame:
        """What the instruction adds at each number of examples, on the same queries.

        Returns:
            Per number of examples: examples, without, with, gain (difference of accuracies), low, high (95 % bootstrap
            interval over queries), p (sign flips), corrected (for the number of rows), n (queries). At few examples
            this is the paper's sample efficiency.

        Source: Luo, Darrell and Bar, ICML 2025, section 5.
        """
        hits = self._hits(score).mean(2)
        found = paired((hits[1] - hits[0]).T, self.tasks)
        means = [
            [self.accuracy(e, instruction=told, score=score).mean for e in self.examples] for told in (False, True)
        ]
        columns = {"examples": self.examples, "without": means[0], "with": means[1], "gain": found.difference}
        columns |= {"low": found.low, "high": found.high, "p": found.p, "corrected": found.corrected}
        return pd.DataFrame(columns).assign(n=len(set(self.units)))

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per number of examples and kind: examples, instruction, accuracy, low, high, strict, n."""
        rows = []
        for examples in self.examples:
            for told in (False, True):
                paper, strict = (self.accuracy(examples, instruction=told, score=s) for s in ("paper", "strict"))
                rows.append((examples, told, paper.mean, paper.low, paper.high, strict.mean, paper.n))
        return pd.DataFrame(rows, columns=["examples", "instruction", "accuracy", "low", "high", "strict", "n"])

    def _index(self, examples: int) -> int:
        if examples not in self.examples:
            raise NotMeasuredError(f"No vectors of {examples} examples; there are {list(self.examples)}.")
        return self.examples.index(examples)

    def _hits(self, score: str) -> Bool[np.ndarray, "kind examples seed query"]:
        if score not in ("paper", "strict"):
            raise MeasureError(f"Unknown score {score!r}; use 'paper' or 'strict'.")
        found: Bool[np.ndarray, "kind examples seed query"] = getattr(self, score)
        return found
