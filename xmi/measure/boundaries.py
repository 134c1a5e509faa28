"""Where one phase gives way to the next, with bootstrap intervals.

The rule: of all ways to cut the depths into an input, a task and an answer stretch, in this order, the one that holds
the most relative mass. Each cut then lies where two neighbouring curves cross, and is interpolated between the two
depths around it. Unlike the first change of the leading phase this does not trip over a single depth out of line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from xmi.errors import MeasureError
from xmi.measure.result import Result

CHANGES = ("input → task", "task → answer")
_ARRAYS = ("layer", "low", "high", "found", "mass")


@dataclass(frozen=True)
class Boundaries(Result):
    """Depths at which the leading phase changes, of one or several measurements.

    A depth is counted in layers, in fractions of them: 3.5 lies between the residuals after blocks 3 and 4, and -1 is
    the embedding. It is NaN where there is no such change.

    Attributes:
        labels: What was measured.
        models: The model of each measurement, or empty.
        n_layers: Its number of blocks.
        layer: The boundaries, in the order of `CHANGES`.
        low: Lower end of the bootstrap interval; NaN as well if fewer than two units were resampled.
        high: Its upper end.
        found: Share of the resamples that have the boundary; the interval is that of these.
        mass: Mean probability of the three token sets together at the boundary: the part of the lens's distribution
            that the relative curves speak of. Where it is next to nothing, so is the boundary.
        n: Independent units (distinct items) behind each measurement.
        confidence: Coverage of the intervals.
    """

    labels: tuple[str, ...]
    models: tuple[str, ...]
    n_layers: tuple[int, ...]
    layer: Float[np.ndarray, "measurement 2"]
    low: Float[np.ndarray, "measurement 2"]
    high: Float[np.ndarray, "measurement 2"]
    found: Float[np.ndarray, "measurement 2"]
    mass: Float[np.ndarray, "measurement 2"]
    n: tuple[int, ...]
    confidence: float = 0.95

    def relative(self, layers: Float[np.ndarray, "measurement 2"]) -> Float[np.ndarray, "measurement 2"]:
        """Returns depths in layers as relative depths: 0 is the embedding, 1 the last layer."""
        return np.asarray((layers + 1) / np.array(self.n_layers, float)[:, None])

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per measurement and change.

        Columns: label, model, change; layer, low, high (in layers); relative, relative_low, relative_high (in [0, 1]);
        found, mass, n.
        """
        columns = {
            "layer": self.layer, "low": self.low, "high": self.high,
            "relative": self.relative(self.layer),
            "relative_low": self.relative(self.low), "relative_high": self.relative(self.high), "found": self.found,
            "mass": self.mass,
        }  # fmt: skip
        rows = [
            {"label": self.labels[i], "model": self.models[i], "change": change}
            | {name: float(values[i, j]) for name, values in columns.items()}
            | {"n": self.n[i]}
            for i in range(len(self.labels))
            for j, change in enumerate(CHANGES)
        ]
        return pd.DataFrame(rows)

    @classmethod
    def concat(cls, parts: Sequence[Boundaries]) -> Boundaries:
        """Lays several side by side.

        Raises:
            MeasureError: None, or intervals of different coverage.
        """
        if not parts or any(p.confidence != parts[0].confidence for p in parts):
            raise MeasureError("Boundaries.concat needs at least one, all of the same confidence.")
        layer, low, high, found, mass = (np.concatenate([getattr(p, k) for p in parts]) for k in _ARRAYS)
        return cls(
            tuple(label for p in parts for label in p.labels),
            tuple(model for p in parts for model in p.models),
            tuple(count for p in parts for count in p.n_layers),
            layer,
            low,
            high,
            found,
            mass,
            tuple(n for p in parts for n in p.n),
            parts[0].confidence,
        )


def find_boundaries(relative: Float[np.ndarray, "*batch depth 3"]) -> Float[np.ndarray, "*batch 2"]:
    """The two boundaries of curves of relative mass.

    Args:
        relative: Shares of input, task and answer at every depth.

    Returns:
        Places on the axis of depths, 0 being the first. NaN where a stretch next to the boundary is empty, or its phase
        leads at no depth of it: input may give way to answer directly, or one phase may lead from end to end. NaN, too,
        where a share is.
    """
    curves = np.asarray(relative, dtype=float)
    rows = curves.reshape(-1, *curves.shape[-2:])
    count = rows.shape[1]
    held = np.pad(rows.cumsum(1), ((0, 0), (1, 0), (0, 0)))  # before each possible cut
    first, second = held[..., 0] - held[..., 1], held[..., 1] - held[..., 2]
    cuts = np.arange(count + 1)
    end = (np.maximum.accumulate(first, 1) + second).argmax(1)
    start = np.where(cuts <= end[:, None], first, -np.inf).argmax(1)
    stretch = (cuts[:-1] >= start[:, None]).astype(int) + (cuts[:-1] >= end[:, None])
    first_leads = (rows[..., 0] >= rows[..., 1]) & (rows[..., 0] >= rows[..., 2])
    leading = np.where(first_leads, 0, np.where(rows[..., 1] >= rows[..., 2], 1, 2))  # argmax is slow over three
    leads = np.stack([((stretch == i) & (leading == i)).any(1) for i in range(3)], 1)
    found = np.stack([_crossing(rows[..., 0] - rows[..., 1], start), _crossing(rows[..., 1] - rows[..., 2], end)], 1)
    found[~(leads[:, :-1] & leads[:, 1:])] = np.nan
    found[np.isnan(rows).any((1, 2))] = np.nan
    return found.reshape(*curves.shape[:-2], 2)


def _crossing(gap: Float[np.ndarray, "row depth"], cut: Int[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Where a gap that is positive before the cut and negative after it is zero; a cut at an end has no meaning."""
    rows = np.arange(len(gap))
    before = gap[rows, np.maximum(cut - 1, 0)].clip(min=0)
    after = (-gap[rows, np.minimum(cut, gap.shape[1] - 1)]).clip(min=0)
    total = before + after
    return np.asarray(cut - 1 + np.divide(before, total, out=np.full_like(total, 0.5), where=total > 0))


def resampled_means(
    values: Float[np.ndarray, "prompt depth set"],
    units: Sequence[str],
    strata: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "resample depth set"]:
    """Bootstrap means whose units are drawn whole and within their stratum.

    Args:
        values: Values of every prompt; what is NaN is missing, and left out of the means.
        units: What each prompt is a repeat of; all prompts of a unit are drawn together.
        strata: The stratum (task) of each prompt; every resample has as many units of it as there are.
        resamples: How many resamples.
        seed: Seed of the drawing.

    Returns:
        The mean over prompts in each resample; NaN where none of the prompts drawn has a value.

    Source: A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application", 1997, sections 2.4 and 3.8.
    """
    flat = np.asarray(values, dtype=float).reshape(len(values), -1)
    known = ~np.isnan(flat)
    whole = bool(known.all())
    flat = np.where(known, flat, 0.0)
    total, count = np.zeros((resamples, flat.shape[1])), np.zeros((resamples, 1 if whole else flat.shape[1]))
    names, kinds = np.asarray(units), np.asarray(strata)
    members = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    found = [np.unique(names[chosen], return_inverse=True) for chosen in members]
    draws = _drawn(tuple(len(distinct) for distinct, _ in found), resamples, seed)
    for chosen, (distinct, inverse), drawn in zip(members, found, draws, strict=True):
        sums, counts = np.zeros((len(distinct), flat.shape[1])), np.zeros((len(distinct), count.shape[1]))
        np.add.at(sums, inverse, flat[chosen])
        np.add.at(counts, inverse, known[chosen, : count.shape[1]].astype(float))
        total += drawn @ sums
        count += drawn @ counts
    count = np.broadcast_to(count, total.shape)
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return np.asarray(means.reshape(resamples, *np.shape(values)[1:]))


@lru_cache(maxsize=8)
def _drawn(sizes: tuple[int, ...], resamples: int, seed: int) -> tuple[Float[np.ndarray, "resample unit"], ...]:
    """How often each unit of each stratum is drawn; the same for all measurements of the same sizes."""
    rng = np.random.default_rng(seed)
    return tuple(rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float) for n in sizes)


def mean_shares(
    shares: Float[np.ndarray, "prompt depth 3"], missing: Bool[np.ndarray, "prompt depth"]
) -> Float[np.ndarray, "depth 3"]:
    """The mean over prompts, those left out that have no share at a depth; NaN where none has."""
    if not missing.any():
        return np.asarray(shares.mean(0))
    total = np.where(missing[..., None], 0.0, shares).sum(0)
    count = (~missing).sum(0)[:, None].astype(float)
    return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def bootstrap_boundaries(
    shares: Float[np.ndarray, "prompt depth 3"],
    mass: Float[np.ndarray, "prompt depth"],
    units: Sequence[str],
    tasks: Sequence[str],
    *,
    label: str = "",
    model: str = "",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Boundaries:
    """Boundaries of the mean curves with percentile intervals; see `Phases.boundaries`.

    Raises:
        MeasureError: `confidence` is not a probability, or there are no prompts or resamples.
    """
    if not 0 < confidence < 1 or resamples < 1 or not len(shares):
        raise MeasureError(
            f"Boundaries need prompts, resamples >= 1 and 0 < confidence < 1; got {len(shares)} prompts, "
            f"resamples={resamples}, confidence={confidence}."
        )
    place = find_boundaries(mean_shares(shares, np.isnan(shares).any(-1)))
    drawn = find_boundaries(resampled_means(shares, units, tasks, resamples=resamples, seed=seed))
    distinct = set(zip(tasks, units, strict=True))
    ends = np.full((2, 2), np.nan)
    for j in range(2):
        seen = drawn[~np.isnan(drawn[:, j]), j]
        # Tasks of one item each would all be drawn as they are: no spread, and none known.
        if len(seen) and not np.isnan(place[j]) and len(distinct) > len(set(tasks)):
            ends[:, j] = np.quantile(seen, [(1 - confidence) / 2, (1 + confidence) / 2])
    layer, low, high = (depth[None] - 1 for depth in (place, *ends))
    found = (~np.isnan(drawn)).mean(0)[None]
    there = np.interp(place, np.arange(shares.shape[1]), mass.mean(0))[None]
    return Boundaries(
        (label,), (model,), (shares.shape[1] - 1,), layer, low, high, found, there, (len(distinct),), confidence
    )
