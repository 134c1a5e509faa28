"""Two methods asked the same items: which one is right more often, and how sure is that?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.errors import MeasureError
from xmi.measure.answers import Answers, Transfer, hits_of, only_labelled
from xmi.measure.paired import CONFIDENCE, RESAMPLES, paired
from xmi.measure.result import Result
from xmi.measure.sides import index_of
from xmi.names import NO_CONTEXT
from xmi.numerals import estimate, p_value, signed


@dataclass(frozen=True)
class Comparison(Result):
    """Accuracy of method `a` minus that of method `b` on the same items.

    Attributes:
        a: Name of the first method.
        b: Name of the second method.
        score: `paper`, `strict` or `whole`.
        accuracy_a: Accuracy of the first, mean over tasks.
        accuracy_b: Accuracy of the second.
        difference: The first minus the second; above zero the first is better.
        low: Lower end of the interval; NaN if a task has a single item.
        high: Upper end of the interval.
        p: Two-sided p-value of the paired permutation test, not corrected for other comparisons.
        n: Number of items.
        answers: Number of answers behind each method.
        seeds: Answers per item; 0 if it is not the same number for all items and both methods.
        tasks: The tasks.
        by_task: Difference of each task.
        by_seed: Difference of each seed (the k-th answer to every item), mean over tasks; empty if `seeds` is 0.
        confidence: Coverage of the interval.
    """

    a: str
    b: str
    score: str
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float
    high: float
    p: float
    n: int
    answers: tuple[int, int]
    seeds: int
    tasks: tuple[str, ...]
    by_task: Float[np.ndarray, " task"]
    by_seed: Float[np.ndarray, " seed"]
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        """Returns the finding as `a - b: +0.31 [+0.20, +0.42], p = 0.0021, n = 96`."""
        shown = estimate(self.difference, self.low, self.high, signed)
        return f"{self.a} - {self.b}: {shown}, {p_value(self.p)}, n = {self.n}"

    def to_frame(self) -> pd.DataFrame:
        """Returns one row: methods, accuracies, the difference with interval, p and range over seeds, and counts."""
        row = {name: getattr(self, name) for name in _COLUMNS}
        spread = (self.by_seed.min(), self.by_seed.max()) if len(self.by_seed) else (math.nan, math.nan)
        more = (*self.answers, *map(float, spread))
        names = ("answers_a", "answers_b", "lowest_seed", "highest_seed")
        return pd.DataFrame([row | dict(zip(names, more, strict=True))])


_COLUMNS = ("a", "b", "score", "accuracy_a", "accuracy_b", "difference", "low", "high", "p", "n", "seeds")


@dataclass(frozen=True)
class LayerComparison(Result):
    """A patched source minus a baseline, at every layer of a sweep.

    Attributes:
        a: Name of the patched source.
        b: Name of the baseline.
        score: `paper`, `strict` or `whole`.
        layers: The layers.
        difference: Accuracy of the patch minus that of the baseline, mean over tasks.
        low: Lower end of each layer's interval (not simultaneous); NaN if a task has a single item.
        high: Upper end of each layer's interval.
        p: Two-sided p-value of each layer on its own.
        corrected: P-value corrected for having looked at all layers.
        n: Number of items.
        confidence: Coverage of each interval.
    """

    a: str
    b: str
    score: str
    layers: tuple[int, ...]
    difference: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]
    p: Float[np.ndarray, " layer"]
    corrected: Float[np.ndarray, " layer"]
    n: int
    confidence: float = CONFIDENCE

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per layer: a, b, layer, difference, low, high, p, corrected, n."""
        values = {k: getattr(self, k) for k in ("difference", "low", "high", "p", "corrected")}
        return pd.DataFrame({"a": self.a, "b": self.b, "layer": self.layers, **values, "n": self.n})


def compare(
    a: Answers,
    b: Answers,
    *,
    names: tuple[str, str] = ("a", "b"),
    score: str = "paper",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compares two methods that were asked the same items.

    For a patch take `answers_at(transfer, source, layer)`, with a layer chosen on validation items.

    Args:
        a: Answers of the first method, perhaps pooled over tasks and seeds.
        b: Answers of the second; the order of the prompts may differ.
        names: What to call the two.
        score: `paper`, `strict` or `whole`.
        confidence: Coverage of the two-sided interval.
        resamples: Bootstrap resamples, and random sign patterns of the test.
        seed: Seed of both.

    Returns:
        The difference with its interval and p-value; see `xmi.measure.paired.paired` for the method.

    Raises:
        MeasureError: An item was asked of one method only, there are no items, or the score is unknown.

    Examples:
        >>> bare = vlm.answers(task.queries("text"))
        >>> shown = vlm.answers(task.icl("text", split="test", n=None))
        >>> found = xmi.compare(shown, bare, names=("5 examples", "no context"))
        >>> round(found.accuracy_a, 2), round(found.accuracy_b, 2), round(found.p, 4)
        (1.0, 0.0, 0.0001)
    """
    return compare_all([(a, b, names)], score=score, confidence=confidence, resamples=resamples, seed=seed)[0]


def compare_all(
    pairs: Sequence[tuple[Answers, Answers, tuple[str, str]]],
    *,
    score: str = "paper",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compares several pairs of methods: `compare` for each, with the resamples of equal items shared.

    Args:
        pairs: Two methods' answers and their names.
        score: As in `compare`.
        confidence: As in `compare`.
        resamples: As in `compare`.
        seed: As in `compare`.

    Returns:
        One comparison per pair, in order. P-values are not corrected: `holm` and `benjamini_hochberg` do that.

    Raises:
        MeasureError: As in `compare`.

    Examples:
        >>> bare = vlm.answers(task.queries("text"))
        >>> asked = {kind: vlm.answers(task.icl(kind, split="test", n=None)) for kind in ("text", "image")}
        >>> pairs = [(found, bare, (kind, "no context")) for kind, found in asked.items()]
        >>> [(found.a, found.p < 0.05) for found in measure.compare_all(pairs)]
        [('text', True), ('image', True)]
    """
    # One side often stands in many pairs (a patch against each control).
    known = {id(side): _by_item(side, score) for a, b, _ in pairs for side in (a, b)}
    sides = [(_same_items(known[id(a)], known[id(b)], names), known[id(b)], names) for a, b, names in pairs]
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (left, _, _) in enumerate(sides):
        groups.setdefault(tuple(left.items), []).append(i)
    found: dict[int, Comparison] = {}
    for own in groups.values():
        tasks = sides[own[0]][0].tasks
        stack = np.concatenate([sides[i][0].shares - sides[i][1].shares for i in own], axis=1)
        result = paired(stack, tasks, confidence=confidence, resamples=resamples, seed=seed)
        for k, i in enumerate(own):
            left, right, (name_a, name_b) = sides[i]
            seeds = len(left.repeats) if len(left.repeats) == len(right.repeats) else 0
            by_seed = [_macro(left.repeats[s] - right.repeats[s], tasks) for s in range(seeds)]
            found[i] = Comparison(
                a=name_a, b=name_b, score=score,
                accuracy_a=_macro(left.shares, tasks), accuracy_b=_macro(right.shares, tasks),
                difference=float(result.difference[k]), low=float(result.low[k]), high=float(result.high[k]),
                p=float(result.p[k]), n=len(tasks), answers=(left.answers, right.answers), seeds=seeds,
                tasks=tuple(map(str, np.unique(tasks))), by_task=_task_means(stack[:, k], tasks),
                by_seed=np.array(by_seed, dtype=float), confidence=confidence,
            )  # fmt: skip
    return [found[i] for i in range(len(pairs))]


def layerwise(
    transfer: Transfer,
    source: str | None = None,
    baseline: Answers | str | None = None,
    *,
    score: str = "paper",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LayerComparison:
    """Compares a patched source with a baseline at every layer, corrected for the number of layers.

    Args:
        transfer: The sweep.
        source: Which vector; may be left out if there is only one.
        baseline: Answers to the same items (a prompting cell), the name of another source of the sweep (a control),
            which is then compared layer by layer, or None for the queries without a patch.
        score: `paper`, `strict` or `whole`.
        confidence: Coverage of each layer's interval.
        resamples: Bootstrap resamples, and random sign patterns of the test.
        seed: Seed of both.

    Returns:
        Difference, interval, p-value and corrected p-value of each layer.

    Raises:
        NotMeasuredError: Unknown source.
        MeasureError: An item was asked on one side only, there are no items, or the score is unknown.

    Examples:
        >>> sweep = vlm.transfer(vlm.task_vector(task.icl("text")), to=task.queries("text"))
        >>> found = measure.layerwise(sweep, baseline=sweep.clean)
        >>> found.to_frame().shape
        (8, 9)
    """
    transfer = only_labelled(transfer)
    chosen = transfer.sources[0] if source is None and len(transfer.sources) == 1 else source
    left = _by_item(transfer, score, index_of(transfer, chosen))
    if isinstance(baseline, str):
        name, right = baseline, _by_item(transfer, score, index_of(transfer, baseline))
    else:
        name = NO_CONTEXT if baseline is None else "baseline"
        other = transfer.clean if baseline is None else baseline
        right = _by_item(other, score)
    left = _same_items(left, right, (str(chosen), name))
    found = paired(left.shares - right.shares, left.tasks, confidence=confidence, resamples=resamples, seed=seed)
    return LayerComparison(
        str(chosen), name, score, transfer.layers, found.difference, found.low, found.high, found.p, found.corrected,
        len(left.items), confidence,
    )  # fmt: skip


@dataclass(frozen=True)
class _Items:
    """Hits by distinct item.

    Attributes:
        items: Task and unit of each item, sorted.
        shares: Mean hit over the item's answers.
        repeats: Hit of each item's k-th answer; empty unless all items have equally many.
        answers: Number of answers.
    """

    items: pd.MultiIndex
    shares: Float[np.ndarray, "item measure"]
    repeats: Float[np.ndarray, "repeat item measure"]
    answers: int

    @property
    def tasks(self) -> np.ndarray:
        return self.items.get_level_values(0).to_numpy(dtype=str)


def _by_item(given: Answers | Transfer, score: str, source: int | None = None) -> _Items:
    """Averages the hits of each item that has a label; of a sweep those of one source, at each of its layers."""
    asked = only_labelled(given) if len(given.tasks) else given
    hits = hits_of(asked, score)
    hits = hits if source is None else hits[source]
    values = np.atleast_2d(np.asarray(hits, dtype=float)).T
    if not len(values):
        raise MeasureError("There are no answers to compare.")
    everyone = pd.MultiIndex.from_arrays([asked.tasks, asked.units])
    items = everyone.unique().sort_values()
    codes = items.get_indexer(everyone)
    counts = np.bincount(codes)
    ordered = values[np.argsort(codes, kind="stable")]
    shares = np.add.reduceat(ordered, np.cumsum(counts) - counts) / counts[:, None]
    even = counts.min() == counts.max()
    shape = (len(items), int(counts[0]) if even else 0, values.shape[1])
    repeats = ordered.reshape(shape) if even else np.zeros(shape)
    return _Items(items, shares, repeats.swapaxes(0, 1), len(values))


def _same_items(left: _Items, right: _Items, names: tuple[str, str]) -> _Items:
    """Returns the left side, whose items are also the right side's.

    Raises:
        MeasureError: They are not.
    """
    for (name, own), other in zip(((names[0], left), (names[1], right)), (right, left), strict=True):
        missing = [str(unit) for _, unit in other.items.difference(own.items)]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise MeasureError(
                f"A paired comparison needs the same items on both sides; {name!r} was not asked "
                f"{', '.join(map(repr, missing[:5]))}{more}. Ask both methods the same queries."
            )
    return left


def _task_means(values: Float[np.ndarray, " item"], tasks: np.ndarray) -> Float[np.ndarray, " task"]:
    return np.array([values[tasks == task].mean() for task in np.unique(tasks)])


def _macro(values: Float[np.ndarray, "item 1"], tasks: np.ndarray) -> float:
    return float(_task_means(values.ravel(), tasks).mean())
