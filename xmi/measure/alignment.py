"""Do the vectors of one task lie together across two modalities? Several measures, before and after the modality gap.

Cosines and nearest centroids ask whether they lie in one *place*; CKA, RSA and Procrustes, whether in one *shape*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from xmi.errors import MeasureError, NotMeasuredError
from xmi.measure.clusters import centroid_votes, left_out_hits, pair_means, unit_length
from xmi.measure.correspondence import linear_cka, procrustes, rsa
from xmi.measure.geometry import announce_zeros, checked
from xmi.measure.permutation import PERMUTATIONS, Tested, orders, p_values, shuffles
from xmi.measure.result import Result
from xmi.measure.stats import wilson

STATES = ("raw", "gap removed")
SAME, DIFFERENT, MARGIN = "same task", "different task", "same minus different task"
ACROSS, WITHIN = "across modalities", "within a modality"
RESAMPLES, CONFIDENCE = 999, 0.95
_NAMES, _POINTS, _ITEMS = "names of the tasks of {b}", "task labels of points within each modality", "pairing of items"


@dataclass(frozen=True)
class Alignment(Result):
    """How well two modalities (or specifications) agree on the tasks, layer by layer.

    Attributes:
        a: Name of one modality.
        b: Name of the other.
        tasks: The tasks.
        n: Number of points of `a` and of `b`.
        layers: The layers.
        states: `raw`, and `gap removed`: each modality's mean over its points was subtracted first.
        measures: What was measured:
            `cosine, <same task | different task | same minus different task>, <across modalities | within a modality>`;
            `centroids, <from> to <to>` (accuracy of the nearest centroid) and `centroids, within <modality>` (each
            point left out, the ceiling); `CKA`; `RSA`; `Procrustes`; `gap` (distance between the two means of points
            of unit length, from 0 to 2).
        permuted: What the test of each measure exchanges; empty if it has none.
        values: The measures.
        low: Lower end of the 95 % interval; NaN where there is none.
        high: Upper end of the interval.
        chance: Mean of the measure over the permutations; NaN where there is no test.
        p: One-sided permutation p-value of the layer on its own.
        corrected: The p-value corrected for having looked at all layers.
        paired: What CKA pairs: `task means` or `items`. RSA and Procrustes pair task means.
        permutations: Random permutations; where there are fewer in all, each is tried once.
        seed: Seed of permutations and resamples.
    """

    a: str
    b: str
    tasks: tuple[str, ...]
    n: tuple[int, int]
    layers: tuple[int, ...]
    states: tuple[str, ...]
    measures: tuple[str, ...]
    permuted: tuple[str, ...]
    values: Float[np.ndarray, "state measure layer"]
    low: Float[np.ndarray, "state measure layer"]
    high: Float[np.ndarray, "state measure layer"]
    chance: Float[np.ndarray, "state measure layer"]
    p: Float[np.ndarray, "state measure layer"]
    corrected: Float[np.ndarray, "state measure layer"]
    paired: str
    permutations: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per state, measure and layer: value, low, high, chance, p, corrected, permuted."""
        names = ["state", "measure", "layer"]
        index = pd.MultiIndex.from_product([self.states, self.measures, self.layers], names=names)
        columns = {"value": self.values} | {k: getattr(self, k) for k in ("low", "high", "chance", "p", "corrected")}
        frame = pd.DataFrame({name: found.ravel() for name, found in columns.items()}, index=index).reset_index()
        return frame.assign(permuted=frame["measure"].map(dict(zip(self.measures, self.permuted, strict=True))))

    def curve(self, measure: str, state: str = "raw") -> pd.DataFrame:
        """Returns the rows of one measure in one state, one per layer.

        Raises:
            NotMeasuredError: Unknown measure or state.
        """
        if measure not in self.measures or state not in self.states:
            raise NotMeasuredError(
                f"No {measure!r} in state {state!r}; measures: {self.measures}, states: {self.states}."
            )
        frame = self.to_frame()
        return frame[(frame["measure"] == measure) & (frame["state"] == state)].reset_index(drop=True)


def alignment(
    points: Float[np.ndarray, "point layer d_model"],
    tasks: Sequence[str],
    modalities: Sequence[str],
    *,
    between: tuple[str, str] | None = None,
    items: Sequence[str] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Alignment:
    """Measures how far two modalities agree on the tasks, with permutation tests, before and after gap removal.

    The tests of what lies *across* modalities exchange the names of the tasks of one modality, whole: each modality
    keeps its clusters, and only their correspondence is broken. (Exchanging points one by one would call any two
    clustered modalities aligned.) All orders of the tasks are tried if they are few, so that T tasks give a p-value
    of 1 / T! at least: four tasks are needed for p < 0.05. The tests *within* a modality exchange the task labels of
    its points. The observed labels count among the permutations: p = (k + 1) / (m + 1).

    Cosine intervals are percentile bootstraps over points within task and modality (`n - 1` of `n` drawn) with the
    modality means held fixed; those of centroid accuracies are Wilson intervals over the points classified. Both speak
    of further prompts of these tasks, not of further tasks. CKA, RSA and Procrustes have none: with few pairs,
    resampled (repeated) pairs would bias them.

    Args:
        points: One residual per prompt and layer, or task vectors (one point per task and specification; measures
            within a modality are then NaN).
        tasks: Task of each point.
        modalities: Modality or specification of each point.
        between: Which two to compare; may be left out if there are only two.
        items: Name of the item behind each point, unique within its modality; CKA is then taken over the items that
            both modalities have rather than over task means.
        permutations: Random permutations per test.
        seed: Seed of permutations and resamples.

    Returns:
        All measures, per layer. What is made of cosines is NaN at layers where a point is zero (with a warning).

    Raises:
        MeasureError: Not two modalities, tasks that one of them lacks, fewer than two tasks, ambiguous items, or points
            that are not a finite array [point, layer, d_model].

    Source: W. Liang et al., "Mind the gap", NeurIPS 2022 (the gap and its removal); see `xmi.measure.correspondence`
    for CKA, RSA and Procrustes; nearest centroids as in scikit-learn, on points of unit length.

    Examples:
        >>> points = np.random.default_rng(0).normal(size=(16, 2, 5))  # point, layer, d_model
        >>> tasks, modalities = ["capital", "currency"] * 8, ["text"] * 8 + ["image"] * 8
        >>> measure.alignment(points, tasks, modalities, permutations=9).to_frame().columns.tolist()[:5]
        ['state', 'measure', 'layer', 'value', 'low']
    """
    values = checked(points, tasks, modalities, least=2).astype(float)
    if permutations < 1:
        raise MeasureError(f"Need at least 1 permutation, got {permutations}.")
    a, b = _two(modalities, between)
    kinds, names = np.asarray(modalities), np.asarray(tasks)
    known = _tasks(names, kinds, a, b)
    codes = np.array([known.index(t) if t in known else -1 for t in tasks])
    left, right = (_Side(values[kinds == m], codes[kinds == m]) for m in (a, b))
    partners = None if items is None else _partners(np.asarray(items), kinds, a, b)
    announce_zeros(values[(kinds == a) | (kinds == b)])
    steps = _Steps(a, b, left, right, len(known), partners, permutations, seed)
    rows = [steps.measured(removed) for removed in (False, True)]
    stack = {k: np.stack([[getattr(m, k) for m in row.values()] for row in rows]) for k in _FIELDS}
    measures = tuple(rows[0])
    return Alignment(
        a=a, b=b, tasks=known, n=(len(left.labels), len(right.labels)), layers=tuple(range(values.shape[1])),
        states=STATES, measures=measures, permuted=tuple(rows[0][m].permuted.format(b=b) for m in measures),
        **stack, paired="task means" if items is None else "items", permutations=permutations, seed=seed,
    )  # fmt: skip


_FIELDS = ("values", "low", "high", "chance", "p", "corrected")


@dataclass(frozen=True)
class _Side:
    """The points of one modality [point, layer, d_model] and their tasks as numbers."""

    points: Float[np.ndarray, "point layer d_model"]
    labels: Int[np.ndarray, " point"]

    def less_mean(self) -> _Side:
        middle = self.points - self.points.mean(0)
        lengths, largest = (np.linalg.norm(p, axis=-1, keepdims=True) for p in (middle, self.points))
        # What is left of equal points is rounding, which has no direction.
        noise = lengths <= 8 * np.finfo(float).eps * largest.max(0)
        return _Side(np.where(noise, 0.0, middle), self.labels)

    def task_means(self) -> Float[np.ndarray, "layer task d_model"]:
        count = self.labels.max() + 1
        return np.stack([self.points[self.labels == t].mean(0) for t in range(count)], axis=1)

    def resampled(self, rng: np.random.Generator) -> Float[np.ndarray, "point resample"]:
        """Weights of the points: all 1, then bootstrap weights within tasks."""
        weights = np.ones((len(self.labels), 1 + RESAMPLES))
        for task in range(self.labels.max() + 1):
            size = int((self.labels == task).sum())
            if size > 1:  # n - 1 of n are drawn, as in `xmi.measure.paired`
                drawn = rng.multinomial(size - 1, np.full(size, 1 / size), RESAMPLES).T * size / (size - 1)
                weights[self.labels == task, 1:] = drawn
        return weights


@dataclass(frozen=True)
class _Row:
    """One measure over the layers."""

    values: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]
    chance: Float[np.ndarray, " layer"]
    p: Float[np.ndarray, " layer"]
    corrected: Float[np.ndarray, " layer"]
    permuted: str


class _Steps:
    """The measures of one pair of modalities; permutations and resamples are drawn once and shared by all layers."""

    def __init__(
        self,
        a: str,
        b: str,
        left: _Side,
        right: _Side,
        count: int,
        partners: tuple[Int[np.ndarray, " item"], Int[np.ndarray, " item"]] | None,
        permutations: int,
        seed: int,
    ) -> None:
        self.a, self.b, self.left, self.right, self.partners = a, b, left, right, partners
        rng = np.random.default_rng([seed, 0])
        self.names, _ = orders(count, permutations, rng)
        self.shuffles = [shuffles([""] * len(s.labels), permutations, rng) for s in (left, right)]
        again = np.random.default_rng([seed, 1])
        self.weights = [s.resampled(again) for s in (left, right)]
        # Subtracting means changes no CKA, so that it is measured once.
        sides = (left.task_means(), right.task_means())
        pairings, self.cka_permuted = self.names, _NAMES
        if partners is not None:
            sides = (left.points[partners[0]].swapaxes(0, 1), right.points[partners[1]].swapaxes(0, 1))
            pairings, self.cka_permuted = orders(len(partners[0]), permutations, rng)[0], _ITEMS
        self.cka = np.stack([linear_cka(x, y, pairings) for x, y in zip(*sides, strict=True)], axis=1)

    def measured(self, removed: bool) -> dict[str, _Row]:
        sides = [s.less_mean() if removed else s for s in (self.left, self.right)]
        units = [unit_length(s.points.swapaxes(0, 1)) for s in sides]  # [layer, point, d_model]
        means = [s.task_means() for s in sides]
        layers = [self._layer(u, v) for u, v in zip(*units, strict=True)]
        found = {name: self._row(name, [layer[name] for layer in layers]) for name in layers[0]}
        found["CKA"] = _row(self.cka[0], p_values(self.cka), self.cka_permuted)
        shapes = list(zip(*means, strict=True))
        for name, statistic in (
            ("RSA", [rsa(x, y, self.names) for x, y in shapes]),
            ("Procrustes", [procrustes(x, y, self.names, centred=removed) for x, y in shapes]),
        ):
            stack = np.stack(statistic, axis=1)
            found[name] = _row(stack[0], p_values(stack), _NAMES)
        found["gap"] = _row(np.linalg.norm(units[0].mean(1) - units[1].mean(1), axis=-1))
        return found

    def _layer(
        self, u: Float[np.ndarray, "point d_model"], v: Float[np.ndarray, "point d_model"]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per measure its interval data (resamples, the estimate first; or hits) and its permutations.

        All NaN where a point has no direction.
        """
        if not (np.isfinite(u).all() and np.isfinite(v).all()):
            shapes = self._layer(np.ones_like(u), np.ones_like(v))
            return {name: (np.full(a.shape, np.nan), np.full(b.shape, np.nan)) for name, (a, b) in shapes.items()}
        x, y = self.left.labels, self.right.labels
        none = np.zeros(0)
        between, inner = u @ v.T, [u @ u.T, v @ v.T]
        across = pair_means(between, x[:, None] == y, np.ones(between.shape, bool), *self.weights)
        size = len(x) + len(y)
        gram, counted, alike = np.zeros((size, size)), np.zeros((size, size), bool), np.concatenate([x, y])
        for block, own in ((slice(None, len(x)), inner[0]), (slice(len(x), None), inner[1])):
            gram[block, block], counted[block, block] = own, ~np.eye(len(own), dtype=bool)
        both = np.concatenate(self.weights)
        within = pair_means(gram, alike[:, None] == alike, counted, both, both)
        lone = [left_out_hits(g, s, z) for g, s, z in zip(inner, (x, y), self.shuffles, strict=True)]
        together, pairs, other = lone[0][1] + lone[1][1], _pair_counts((x, y)), float(counted.sum())
        apart = (gram.sum() - np.trace(gram) - together) / max(other - pairs, 1)
        inside = together / pairs - apart if 0 < pairs < other else np.full(len(together), np.nan)
        votes = centroid_votes(u, x, v, y), centroid_votes(v, y, u, x)
        every = np.arange(len(votes[0]))
        return {
            f"cosine, {SAME}, {ACROSS}": (across[0], none),
            f"cosine, {DIFFERENT}, {ACROSS}": (across[1], none),
            f"cosine, {MARGIN}, {ACROSS}": (across[2], self._margins(between)),
            f"cosine, {SAME}, {WITHIN}": (within[0], none),
            f"cosine, {DIFFERENT}, {WITHIN}": (within[1], none),
            f"cosine, {MARGIN}, {WITHIN}": (within[2], inside),
            f"centroids, {self.a} to {self.b}": (none, votes[0][self.names, every].sum(1) / len(y)),
            f"centroids, {self.b} to {self.a}": (none, votes[1][every, self.names].sum(1) / len(x)),
            f"centroids, within {self.a}": (none, lone[0][0]),
            f"centroids, within {self.b}": (none, lone[1][0]),
        }

    def _margins(self, between: Float[np.ndarray, "left right"]) -> Float[np.ndarray, " order"]:
        """Same minus different task across modalities, under every naming of the tasks of the right side."""
        x, y = (np.eye(self.names.shape[1])[s.labels] for s in (self.left, self.right))
        sums, counts = x.T @ between @ y, np.outer(x.sum(0), y.sum(0))
        rows = np.arange(len(sums))
        same, pairs = sums[rows, self.names].sum(1), counts[rows, self.names].sum(1)
        return np.asarray(same / pairs - (sums.sum() - same) / (counts.sum() - pairs))

    def _row(self, name: str, layers: list[tuple[np.ndarray, np.ndarray]]) -> _Row:
        resamples, permuted = (np.stack(part, axis=1) for part in zip(*layers, strict=True))
        test = p_values(permuted) if len(permuted) else None
        if len(resamples):
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(resamples[1:], [tail, 1 - tail], axis=0)
            label = "" if test is None else _NAMES if name.endswith(ACROSS) else _POINTS
            return _row(resamples[0], test, label, low, high)
        size = len((self.left if name.endswith((f"to {self.a}", f"within {self.a}")) else self.right).labels)
        bounds = [wilson(v, size, CONFIDENCE) if np.isfinite(v) else wilson(0.0, 0) for v in permuted[0]]
        label = _POINTS if name.startswith("centroids, within") else _NAMES
        return _row(permuted[0], test, label, np.array([w.low for w in bounds]), np.array([w.high for w in bounds]))


def _row(
    values: np.ndarray,
    test: Tested | None = None,
    permuted: str = "",
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> _Row:
    nothing = np.full(len(values), np.nan)
    found = Tested(nothing, nothing, nothing) if test is None else test
    return _Row(values, nothing if low is None else low, nothing if high is None else high, found.chance, found.p,
                found.corrected, permuted)  # fmt: skip


def _pair_counts(labels: tuple[Int[np.ndarray, " point"], ...]) -> float:
    """Ordered pairs of one task within a modality."""
    return float(sum((np.bincount(x) * (np.bincount(x) - 1)).sum() for x in labels))


def _two(modalities: Sequence[str], between: tuple[str, str] | None) -> tuple[str, str]:
    known = list(dict.fromkeys(modalities))
    chosen = tuple(known) if between is None else tuple(between)
    if len(chosen) != 2 or len(set(chosen)) != 2 or not set(chosen) <= set(known):
        raise MeasureError(f"An alignment is between two modalities; got {chosen} of {known}. Name two by between=.")
    return chosen[0], chosen[1]


def _tasks(names: np.ndarray, kinds: np.ndarray, a: str, b: str) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(str(t) for t in names[(kinds == a) | (kinds == b)]))
    lacking = {m: [t for t in known if t not in names[kinds == m]] for m in (a, b)}
    if any(lacking.values()) or len(known) < 2:
        raise MeasureError(
            f"Need two tasks or more, each with points of {a!r} and {b!r}; found tasks {list(known)}, "
            f"lacking {lacking}. Leave out the tasks that one modality lacks."
        )
    return known


def _partners(
    items: np.ndarray, kinds: np.ndarray, a: str, b: str
) -> tuple[Int[np.ndarray, " item"], Int[np.ndarray, " item"]]:
    if items.shape != kinds.shape:
        raise MeasureError(f"Need one item per point; got {len(items)} items, {len(kinds)} points.")
    for m in (a, b):
        own, counts = np.unique(items[kinds == m], return_counts=True)
        if counts.max() > 1:
            raise MeasureError(f"Item {str(own[counts.argmax()])!r} has several points in {m!r}; name the items apart.")
    _, left, right = np.intersect1d(items[kinds == a], items[kinds == b], return_indices=True)
    return left, right
