"""What a model answered, by prompting and by patching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from xmi.errors import MeasureError, NotMeasuredError
from xmi.measure.result import Result
from xmi.measure.scoring import paper_hit, whole_hit
from xmi.measure.stats import Proportion, accuracies
from xmi.names import TIES


def _joined(parts: Sequence[Any], name: str, axis: int | None = None) -> Any:
    values = [getattr(part, name) for part in parts]
    return np.concatenate(values, axis=axis) if axis is not None else tuple(v for value in values for v in value)


def _pooled(parts: Sequence[Answers] | Sequence[Transfer]) -> tuple[tuple[str, ...], ...] | None:
    """The alternatives of all parts, of which some may have none."""
    if all(part.alternatives is None for part in parts):
        return None
    return tuple(labels for part in parts for labels in part.alternatives or ((),) * len(part.answers))


def _accepted(result: Answers | Transfer) -> tuple[tuple[str, ...], ...]:
    further = result.alternatives or ((),) * len(result.answers)
    pairs = zip(result.answers, further, strict=True)
    return tuple((label, *others) if label else () for label, others in pairs)


def _labelled(result: Answers | Transfer) -> Bool[np.ndarray, " prompt"]:
    return np.array([bool(label) for label in result.answers], dtype=bool)


def _accuracies(hits: Bool[np.ndarray, "row prompt"], result: Answers | Transfer) -> list[Proportion]:
    known = _labelled(result)
    return accuracies(hits[:, known], np.array(result.units)[known], np.array(result.tasks)[known])


Asked = TypeVar("Asked", bound="Answers | Transfer")


def only_labelled(result: Asked) -> Asked:
    """The prompts or queries that have a label.

    Raises:
        MeasureError: There are none.
    """
    known = _labelled(result)
    if known.all():
        return result
    if not known.any():
        raise MeasureError("No prompt has a label, so there is nothing to compare: give prompts of a task.")
    found: Asked = _some(result, np.flatnonzero(known).tolist())
    return found


KNOWN = 1 << 14
"""Texts whose scores are remembered: the same few answers come from every layer and vector."""


@dataclass(frozen=True)
class Answers(Result):
    """The next token a model gives to each prompt.

    Attributes:
        prompts: The prompts as shown text.
        tasks: Task of each prompt; accuracies are means over tasks.
        units: Independent unit (task and input) behind each prompt, for intervals.
        answers: The labels; empty where there is none.
        predicted: Text of the top token; bytes that are not a whole character are spelled out (`<0xE9>`).
        log_probability: Log-probability (nats) of the label's first token; NaN without a label.
        rank: Its rank, 0 = top; -1 without a label.
        paper: Hits by the paper's two-way prefix rule.
        strict: Hits by exact first token.
        continuations: What the model wrote, if more than one token was asked for.
        alternatives: Further labels of each prompt, a hit on which counts too; None if there are none at all.
    """

    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    units: tuple[str, ...]
    answers: tuple[str, ...]
    predicted: tuple[str, ...]
    log_probability: Float[np.ndarray, " prompt"]
    rank: Int[np.ndarray, " prompt"]
    paper: Bool[np.ndarray, " prompt"]
    strict: Bool[np.ndarray, " prompt"]
    continuations: tuple[str, ...] | None = None
    alternatives: tuple[tuple[str, ...], ...] | None = None

    @property
    def accepted(self) -> tuple[tuple[str, ...], ...]:
        """All labels of each prompt, the canonical one first."""
        return _accepted(self)

    @property
    def labelled(self) -> Bool[np.ndarray, " prompt"]:
        """Which prompts have a label: only their answers can be right or wrong."""
        return _labelled(self)

    def accuracy(self, score: str = "paper") -> Proportion:
        """Returns the accuracy under `paper`, `strict` or `whole` scoring, with its Wilson interval over units.

        Only prompts with a label count; without any, the accuracy is NaN with `n = 0`.
        """
        return _accuracies(hits_of(self, score)[None], self)[0]

    def tied(self) -> Bool[np.ndarray, " prompt"]:
        """Returns which answers begin a label of their prompt and another label of its task alike.

        Under `paper` they are hits, but the first token does not distinguish the labels.
        """
        return _tied(self.predicted, self.accepted, rivals_of(self))

    def of_task(self, task: str) -> Self:
        """Returns the answers to the prompts of one task.

        Raises:
            NotMeasuredError: There are none.
        """
        found: Self = _of_task(self, task)
        return found

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Pools the answers to several sets of prompts (tasks, seeds)."""
        words = {k: _joined(parts, k) for k in ("prompts", "tasks", "units", "answers", "predicted")}
        if all(p.continuations is not None for p in parts):
            words["continuations"] = _joined(parts, "continuations")
        words["alternatives"] = _pooled(parts)
        return cls(**words, **{k: _joined(parts, k, -1) for k in ("log_probability", "rank", "paper", "strict")})

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per prompt; where there is no label, what is compared with one is missing."""
        frame = pd.DataFrame(
            {
                "task": self.tasks,
                "unit": self.units,
                "answer": self.answers,
                "predicted": self.predicted,
                "log_probability": self.log_probability,
                "rank": self.rank,
                "paper": self.paper,
                "strict": self.strict,
                "prompt": self.prompts,
            }
        )
        if not (known := self.labelled).all():
            kinds = {"answer": "object", "rank": "Int64", "paper": "boolean", "strict": "boolean"}
            frame = frame.astype(kinds)
            frame.loc[~known, list(kinds)] = pd.NA
        return frame


@dataclass(frozen=True)
class Transfer(Result):
    """A layer sweep: every vector patched after every layer into every query.

    Attributes:
        sources: Name of each patched vector.
        layers: The layers that were patched; source and target layer are the same.
        tasks: Task of each query; accuracies are means over tasks.
        units: Independent unit (task and input) of each query.
        answers: The labels; empty where there is none.
        predicted: Text of the top token; bytes that are not a whole character are spelled out (`<0xE9>`).
        log_probability: Log-probability (nats) of the label's first token; NaN without a label.
        rank: Its rank, 0 = top; -1 without a label.
        paper: Hits by the paper's two-way prefix rule.
        strict: Hits by exact first token.
        clean: The same queries without a patch (no context).
        continuations: What the model wrote, if more than one token was asked for.
        alternatives: Further labels of each query, a hit on which counts too; None if there are none at all.
    """

    sources: tuple[str, ...]
    layers: tuple[int, ...]
    tasks: tuple[str, ...]
    units: tuple[str, ...]
    answers: tuple[str, ...]
    predicted: tuple[tuple[tuple[str, ...], ...], ...]
    log_probability: Float[np.ndarray, "source layer query"]
    rank: Int[np.ndarray, "source layer query"]
    paper: Bool[np.ndarray, "source layer query"]
    strict: Bool[np.ndarray, "source layer query"]
    clean: Answers
    continuations: tuple[tuple[tuple[str, ...], ...], ...] | None = None
    alternatives: tuple[tuple[str, ...], ...] | None = None

    @property
    def accepted(self) -> tuple[tuple[str, ...], ...]:
        """All labels of each query, the canonical one first."""
        return _accepted(self)

    @property
    def labelled(self) -> Bool[np.ndarray, " query"]:
        """Which queries have a label: only their answers can be right or wrong."""
        return _labelled(self)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Pools the queries of several sweeps (tasks, seeds) with the same sources and layers.

        Raises:
            MeasureError: No parts, or parts that differ in sources or layers.
        """
        if not parts or any((p.sources, p.layers) != (parts[0].sources, parts[0].layers) for p in parts):
            raise MeasureError("concat needs at least one Transfer, all with the same sources and layers.")
        sources, layers = parts[0].sources, parts[0].layers

        def texts(name: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
            return tuple(
                tuple(tuple(t for p in parts for t in getattr(p, name)[s][i]) for i in range(len(layers)))
                for s in range(len(sources))
            )

        return cls(
            sources=sources,
            layers=layers,
            predicted=texts("predicted"),
            continuations=texts("continuations") if all(p.continuations is not None for p in parts) else None,
            alternatives=_pooled(parts),
            clean=Answers.concat([p.clean for p in parts]),
            **{k: _joined(parts, k) for k in ("tasks", "units", "answers")},
            **{k: _joined(parts, k, -1) for k in ("log_probability", "rank", "paper", "strict")},
        )

    def tied(self) -> Bool[np.ndarray, "source layer query"]:
        """Returns which answers begin a label of their query and another label of its task alike."""
        return _tied(self.predicted, self.accepted, rivals_of(self))

    def of_task(self, task: str) -> Self:
        """Returns the queries of one task.

        Raises:
            NotMeasuredError: There are none.
        """
        found: Self = _of_task(self, task)
        return found

    def accuracy(self, source: str | None = None, layer: float | None = None, score: str = "paper") -> Proportion:
        """Accuracy of one source at one layer.

        Args:
            source: Which vector; may be left out if there is only one.
            layer: Which layer; by default `best_layer` (then the value is optimistic: choose on validation data).
            score: `paper`, `strict`, or `whole` (the whole label, if several tokens were read).

        Returns:
            The accuracy with its Wilson interval over distinct units. Only queries with a label count; without any, it
            is NaN with `n = 0`.

        Raises:
            NotMeasuredError: Unknown source or layer.
            MeasureError: No layer was named, and without labels none is best.
        """
        s = self._source(source)
        chosen = self.best_layer_of(source, score) if layer is None else layer
        if chosen not in self.layers:
            raise NotMeasuredError(f"Layer {chosen} was not swept; the layers are {list(self.layers)}.")
        return _accuracies(hits_of(self, score)[s, self.layers.index(chosen)][None], self)[0]

    def curve(self, source: str | None = None, score: str = "paper") -> list[Proportion]:
        """Returns the accuracy of one source at every layer, in the order of `layers`."""
        return _accuracies(hits_of(self, score)[self._source(source)], self)

    def best_layer_of(self, source: str | None = None, score: str = "paper", *, ties: str = "likelihood") -> int:
        """The layer at which a source is most accurate.

        Args:
            source: Which vector; may be left out if there is only one.
            score: `paper`, `strict` or `whole`.
            ties: Which of equally accurate layers: that with the highest mean `likelihood` (log-probability of the
                labels), which still separates layers when few items make accuracies tie; or the `first`, as in the
                published code.

        Returns:
            The layer.

        Raises:
            MeasureError: Unknown rule for ties, or no query has a label.
        """
        return self._best([self._source(source)], score, ties)

    @property
    def best_layer(self) -> int:
        """The layer with the highest `paper` accuracy, mean over sources; ties as in `best_layer_of`."""
        return self._best(range(len(self.sources)), "paper")

    def _best(self, sources: Sequence[int], score: str, ties: str = "likelihood") -> int:
        if ties not in TIES:
            raise MeasureError(f"Unknown rule for ties {ties!r}; use 'likelihood' or 'first'.")
        if not (known := self.labelled).any():
            raise MeasureError("No query has a label, so no layer is best: name the layer (layer=...).")
        curves = [[p.mean for p in self.curve(self.sources[s], score)] for s in sources]
        means = np.mean(curves, axis=0).round(12)
        if ties == "first":
            return self.layers[int(means.argmax())]
        likelihood = self.log_probability[list(sources)][..., known].mean((0, 2))
        if np.isnan(likelihood).any():
            bad = [layer for layer, value in zip(self.layers, likelihood, strict=True) if np.isnan(value)]
            raise MeasureError(f"The log-probabilities at layers {bad} hold NaN: check the dtype the model ran in.")
        return self.layers[int(np.lexsort((likelihood, means))[-1])]

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per source and layer: accuracy under both scores with n and intervals."""
        rows = []
        for source in self.sources:
            for layer in self.layers:
                paper, strict = (self.accuracy(source, layer, s) for s in ("paper", "strict"))
                rows.append((source, layer, paper.mean, paper.low, paper.high, strict.mean, paper.n))
        return pd.DataFrame(rows, columns=["source", "layer", "accuracy", "low", "high", "strict", "n"])

    def _source(self, source: str | None) -> int:
        if source is None and len(self.sources) == 1:
            return 0
        if source not in self.sources:
            raise NotMeasuredError(f"No source {source!r}; the sources are {list(self.sources)}.")
        return self.sources.index(source)


def _of_task(result: Any, task: str) -> Any:
    keep = [i for i, name in enumerate(result.tasks) if name == task]
    if not keep:
        raise NotMeasuredError(f"Nothing was asked of the task {task!r}; the tasks are {sorted(set(result.tasks))}.")
    return _some(result, keep)


def _some(result: Any, keep: Sequence[int]) -> Any:
    """Keeps some queries, whose axis is the last one of arrays and of nested texts."""
    if isinstance(result, (Answers, Transfer)):
        asked = {f.name: getattr(result, f.name) for f in fields(result)}
        fixed = ("sources", "layers")
        few = {k: v if k in fixed else _some(v, keep) for k, v in asked.items() if k != "alternatives"}
        if result.alternatives is not None:  # nested, but its axis is the first
            few["alternatives"] = tuple(result.alternatives[i] for i in keep)
        return type(result)(**few)
    if isinstance(result, np.ndarray):
        return result[..., list(keep)]
    if isinstance(result, tuple) and result and isinstance(result[0], tuple):
        return tuple(_some(part, keep) for part in result)
    return tuple(result[i] for i in keep) if result is not None else None


def hits_of(result: Answers | Transfer, score: str) -> Bool[np.ndarray, ...]:
    """The hits of a result under a named score.

    Raises:
        MeasureError: The score is neither `paper` nor `strict`.
    """
    if score == "paper":
        return result.paper
    if score == "strict":
        return result.strict
    if score == "whole":
        if result.continuations is None:
            raise MeasureError("Whole labels can be scored only if several tokens were read: max_new_tokens=...")
        return _whole(result.continuations, result.accepted, rivals_of(result))
    raise MeasureError(f"Unknown score {score!r}; use 'paper', 'strict' or 'whole'.")


def rivals_of(result: Answers | Transfer) -> tuple[frozenset[str], ...]:
    """For each prompt the labels of its task, in this result, that do not count for it."""
    labels: dict[str, set[str]] = {}
    for task, own in zip(result.tasks, result.accepted, strict=True):
        labels.setdefault(task, set()).update(own)
    pairs = list(zip(result.tasks, result.accepted, strict=True))
    found = {pair: frozenset(labels[pair[0]].difference(pair[1])) for pair in set(pairs)}
    return tuple(found[pair] for pair in pairs)


def _tied(texts: Any, answers: Sequence[Sequence[str]], rivals: Sequence[frozenset[str]]) -> Bool[np.ndarray, ...]:
    """Whether each token, at any depth of nesting, is a hit on one of its labels and on one that does not count."""
    if texts and isinstance(texts[0], str):
        return np.array([_ties(*asked) for asked in zip(texts, answers, rivals, strict=True)], dtype=bool)
    return np.array([_tied(part, answers, rivals) for part in texts])


@lru_cache(maxsize=KNOWN)
def _ties(text: str, labels: Sequence[str], rivals: frozenset[str]) -> bool:
    return paper_hit(text, labels) and paper_hit(text, tuple(rivals))


_whole_hit = lru_cache(maxsize=KNOWN)(whole_hit)


def _whole(texts: Any, answers: Sequence[Sequence[str]], rivals: Sequence[frozenset[str]]) -> Bool[np.ndarray, ...]:
    """Whether each text, at any depth of nesting, begins with one of its labels as whole words."""
    if texts and isinstance(texts[0], str):
        return np.array([_whole_hit(*asked) for asked in zip(texts, answers, rivals, strict=True)])
    return np.array([_whole(part, answers, rivals) for part in texts])
