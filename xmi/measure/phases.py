"""The three phases of the last token: input, task, answer.

At each layer the residual at the slot is decoded by the lens; the probability mass of three given sets of tokens is
followed through depth (Luo, Darrell and Bar, ICML 2025, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Num

from xmi.errors import MeasureError
from xmi.measure.boundaries import Boundaries, bootstrap_boundaries, mean_shares, resampled_means
from xmi.measure.result import Result

PHASES = ("input", "task", "answer")


@dataclass(frozen=True)
class Phases(Result):
    """Probability of the input, task and answer tokens through the layers.

    Attributes:
        label: What was measured (task and specification).
        depth: Names of the depths: `embed`, then `0`, `1`, ... for the residual after each layer.
        probability: Mass of each token set under the lens, per prompt; phases in the order of `PHASES`.
        rank: Best rank (0 = top) of the set's tokens, per prompt.
        top_tokens: The most frequent top tokens per depth over the prompts, with their share.
        units: The item of each prompt, for the intervals; empty if unknown (every prompt then stands for itself).
        tasks: The task of each prompt; empty if unknown.
        task_words: The tokens that made up the task set.
        lens: Name of the lens.
        model: Name of the model, or empty.
        slot: Where it was read.
        other_labels: Mass of the beginnings of the task's other labels, per prompt; None if it was not followed.
        other_labels_rank: Best rank of these, per prompt.
        label_words: Those of the task words that labels of the task begin with, too: at them a word for the task and a
            wrong answer look alike.
    """

    label: str
    depth: tuple[str, ...]
    probability: Float[np.ndarray, "prompt depth 3"]
    rank: Num[np.ndarray, "prompt depth 3"]
    top_tokens: tuple[tuple[tuple[str, float], ...], ...]
    units: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_words: tuple[str, ...] = ()
    lens: str = "logit lens"
    model: str = ""
    slot: str = "last"
    other_labels: Float[np.ndarray, "prompt depth"] | None = None
    other_labels_rank: Num[np.ndarray, "prompt depth"] | None = None
    label_words: tuple[str, ...] = ()

    @property
    def mass(self) -> Float[np.ndarray, "depth 3"]:
        """Mean probability of each of the three sets: what `relative` shares out."""
        return np.asarray(self.probability.mean(0))

    @property
    def top_is_label(self) -> Float[np.ndarray, " depth"] | None:
        """Share of the prompts whose top token begins a label of the task, be it the right one; None if unknown."""
        if self.other_labels_rank is None:
            return None
        return np.asarray(((self.rank[..., 2] == 0) | (self.other_labels_rank == 0)).mean(0))

    @property
    def items(self) -> int:
        """Number of distinct items behind the measurement."""
        units, tasks = self._drawn()
        return len(set(zip(tasks, units, strict=True)))

    def leading(self, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[str, ...]:
        """Which set outweighs all others at each depth, the task's other labels among them if they are known.

        Args:
            confidence: Coverage of the interval of the difference to the next set.
            resamples: Bootstrap resamples: items with all their prompts, drawn within each task.
            seed: Seed of the drawing.

        Returns:
            `input`, `task`, `answer` or `other labels` per depth; empty where the interval of the difference between
            the mean probability of the largest set and the next holds zero, or is not known.
        """
        sets = (*PHASES, "other labels") if self.other_labels is not None else PHASES
        mass = self.probability
        if self.other_labels is not None:
            mass = np.concatenate([mass, self.other_labels[..., None]], -1)
        if not len(mass) or not np.isfinite(mass).all():
            return ("",) * len(self.depth)
        best = mass.mean(0).argmax(-1)
        drawn = resampled_means(mass, *self._drawn(), resamples=resamples, seed=seed)
        chosen = np.take_along_axis(drawn, best[None, :, None], -1)[..., 0]
        rest = np.where(np.arange(len(sets)) == best[:, None], -np.inf, drawn).max(-1)
        low = np.quantile(chosen - rest, (1 - confidence) / 2, axis=0)
        return tuple(sets[i] if bound > 0 else "" for i, bound in zip(best, low, strict=True))

    def _drawn(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The item and the task of each prompt; where they are unknown every prompt stands for itself."""
        count = len(self.probability)
        return self.units or tuple(map(str, range(count))), self.tasks or ("",) * count

    @property
    def shares(self) -> Float[np.ndarray, "prompt depth 3"]:
        """Each phase's share of the three masses, per prompt; it sums to 1 at each depth.

        Where all three masses are zero (underflow) there is no share: NaN.
        """
        total = self.probability.sum(-1, keepdims=True)
        nothing = np.full_like(self.probability, np.nan)
        return np.asarray(np.divide(self.probability, total, out=nothing, where=total != 0))

    @property
    def relative(self) -> Float[np.ndarray, "depth 3"]:
        """Mean of `shares` over the prompts that have one; it sums to 1 at each depth.

        NaN at depths where no prompt has one, or where a probability is NaN.
        """
        return mean_shares(self.shares, self.probability.sum(-1) == 0)

    @property
    def relative_depth(self) -> Float[np.ndarray, " depth"]:
        """Each depth in [0, 1]: 0 is the embedding, 1 the last layer, so that models can be laid side by side."""
        return np.linspace(0, 1, len(self.depth))

    @property
    def dominant(self) -> tuple[str, ...]:
        """The phase with the largest relative probability at each depth; empty where there is none."""
        relative = self.relative
        return tuple("" if np.isnan(row).any() else PHASES[row.argmax()] for row in relative)

    def boundaries(self, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Boundaries:
        """The depths at which task takes over from input, and answer from task.

        The depths are cut into an input, a task and an answer stretch, in this order, such that the stretches hold the
        most relative mass; a boundary is where the curves of the two stretches next to a cut cross, linearly
        interpolated. There is none (NaN) if one of its two phases has no stretch, or leads at no depth of it.

        Args:
            confidence: Coverage of the intervals.
            resamples: Bootstrap resamples: items with all their prompts, drawn within each task.
            seed: Seed of the drawing.

        Returns:
            Both boundaries with percentile intervals, and the share of the resamples in which there is one.

        Raises:
            MeasureError: `confidence` is not a probability, there are no prompts or resamples, or a probability is NaN.
        """
        options = confidence, resamples, seed
        if options not in self._boundaries:
            if not np.isfinite(self.probability).all():
                raise MeasureError(
                    f"{self.label}: probabilities are NaN or infinite: check the dtype the model ran in."
                )
            self._boundaries[options] = bootstrap_boundaries(
                self.shares,
                self.probability.sum(-1),
                *self._drawn(),
                label=self.label,
                model=self.model,
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
        return deepcopy(self._boundaries[options])

    @cached_property
    def _boundaries(self) -> dict[tuple[float, int, int], Boundaries]:
        """Boundaries that were found, by confidence, resamples and seed: every view of a figure asks for them."""
        return {}

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per depth and phase.

        Columns: label, depth, phase, relative (mean share), probability (mean mass), median_rank, top_tokens,
        mean_rank, relative_depth, lens, model. Phase `other labels` has no relative probability: it is none of the
        three.
        """
        relative, absolute = self.relative, self.probability.mean(0)
        middle, mean = np.median(self.rank, axis=0), self.rank.mean(0)
        rows = [
            (
                self.label,
                d,
                p,
                relative[i, j],
                absolute[i, j],
                middle[i, j],
                ", ".join(t for t, _ in self.top_tokens[i]),
                mean[i, j],
                self.relative_depth[i],
                self.lens,
                self.model,
            )
            for i, d in enumerate(self.depth)
            for j, p in enumerate(PHASES)
        ]
        columns = ["label", "depth", "phase", "relative", "probability", "median_rank", "top_tokens", "mean_rank"]
        if self.other_labels is not None and self.other_labels_rank is not None:
            others, ranks = self.other_labels.mean(0), self.other_labels_rank
            rows += [
                (self.label, d, "other labels", np.nan, others[i], np.median(ranks[:, i]), rows[3 * i][6],
                 ranks[:, i].mean(), self.relative_depth[i], self.lens, self.model)
                for i, d in enumerate(self.depth)
            ]  # fmt: skip
        return pd.DataFrame(rows, columns=[*columns, "relative_depth", "lens", "model"])


def boundaries(
    measured: Phases | Sequence[Phases] | Mapping[str, Phases],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Boundaries:
    """Boundaries of several measurements side by side, of models of different depth too; see `Phases.boundaries`.

    Args:
        measured: One measurement or several.
        confidence: Coverage of the intervals.
        resamples: Bootstrap resamples.
        seed: Seed of the drawing.

    Returns:
        One pair of boundaries per measurement.

    Raises:
        MeasureError: No measurement, or as `Phases.boundaries`.

    Examples:
        >>> text = vlm.phases(task.icl("text", n=10))
        >>> measure.boundaries({"text ICL": text}, resamples=100).layer.shape  # measurement, boundary
        (1, 2)
    """
    several = [measured] if isinstance(measured, Phases) else measured
    found = list(several.values()) if isinstance(several, Mapping) else list(several)
    return Boundaries.concat([p.boundaries(confidence=confidence, resamples=resamples, seed=seed) for p in found])


def merge(label: str, parts: list[Phases]) -> Phases:
    """Pools the prompts of several measurements (the tasks of one specification, say).

    Top tokens are averaged with equal weight per part. All parts must have the same depths.

    Raises:
        MeasureError: No parts, or parts of different depth, or read by different lenses or at different slots.

    Examples:
        >>> parts = [vlm.phases(xmi.task(name).icl("text", n=2)) for name in ("country-capital", "food-color")]
        >>> measure.merge("text ICL", parts).probability.shape  # prompt, depth, phase
        (4, 9, 3)
    """
    if not parts or any(p.depth != parts[0].depth for p in parts):
        raise MeasureError("merge needs at least one Phases, all of the same depth.")
    for what in ("lens", "slot"):
        if len(kinds := {getattr(p, what) for p in parts}) > 1:
            raise MeasureError(f"merge needs Phases of one {what}, found {', '.join(sorted(kinds))}.")
    tops = []
    for i in range(len(parts[0].depth)):
        share: dict[str, float] = {}
        for part in parts:
            for token, weight in part.top_tokens[i]:
                share[token] = share.get(token, 0.0) + weight / len(parts)
        tops.append(tuple(sorted(share.items(), key=lambda kv: (-kv[1], kv[0]))[:5]))
    models = {p.model for p in parts}
    return Phases(
        label,
        parts[0].depth,
        np.concatenate([p.probability for p in parts]),
        np.concatenate([p.rank for p in parts]),
        tuple(tops),
        units=_pooled([p.units for p in parts]),
        tasks=_pooled([p.tasks for p in parts]),
        task_words=tuple(dict.fromkeys(w for p in parts for w in p.task_words)),
        lens=parts[0].lens,
        model=models.pop() if len(models) == 1 else "",
        slot=parts[0].slot,
        other_labels=_stacked([p.other_labels for p in parts]),
        other_labels_rank=_stacked([p.other_labels_rank for p in parts]),
        label_words=tuple(dict.fromkeys(w for p in parts for w in p.label_words)),
    )


def _stacked(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The values of all prompts; nothing if some are unknown."""
    known = [v for v in values if v is not None]
    return np.concatenate(known) if len(known) == len(values) else None


def _pooled(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The names of all prompts; nothing if some are unknown."""
    return tuple(n for part in names for n in part) if all(names) else ()
