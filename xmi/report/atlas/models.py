"""The models of an atlas, each of a run, and what stands on the page of one of them: a number that leads to its run."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from xmi.errors import NotMeasuredError, RunError
from xmi.numerals import decimal, interval
from xmi.study.results import StudyResults

T = TypeVar("T")


@dataclass(frozen=True)
class Studied:
    """A model of a run.

    Attributes:
        results: The run.
        model: Its name there.
        label: A name that no other model of the page has.
        address: Where the run's report is, seen from the page; empty if it has none.
        layers: Number of its layers; None if the run does not say.
    """

    results: StudyResults
    model: str
    label: str
    address: str
    layers: int | None

    @property
    def beside(self) -> str:
        """What it stands beside in its run; empty for the run's main model."""
        main = self.results.models[0]
        return "" if self.model == main else f"compared with {main}"

    def measured(self, read: Callable[[StudyResults, str], T]) -> T | None:
        """Reads a result; None where the study left it out."""
        try:
            return read(self.results, self.model)
        except (RunError, NotMeasuredError):
            return None

    def layer(self, layer: Any) -> str:
        """A layer in words: `layer 3 of 8`; empty where there is none."""
        if layer is None or math.isnan(layer):
            return ""
        return f"layer {int(layer)}" + (f" of {self.layers}" if self.layers else "")


@dataclass(frozen=True)
class Number:
    """A number of the page.

    Attributes:
        value: What it is sorted by.
        interval: Its interval; empty where the run has none.
        notes: What else is said of it, a line each.
        anchor: The part of the run's report that shows it.
        share: How strongly its cell is shaded, from 0 to 1; None for not at all.
    """

    value: float
    interval: str
    notes: tuple[str, ...]
    anchor: str
    share: float | None = None

    @classmethod
    def of(cls, value: Any, low: Any, high: Any, *notes: str, anchor: str, share: float | None = None) -> Number | None:
        """Makes one; None where the value is not defined."""
        if not math.isfinite(value):
            return None
        told = tuple(note for note in notes if note)
        return cls(float(value), interval(low, high), told, anchor, share)

    @property
    def shown(self) -> str:
        """It in words."""
        return decimal(self.value)


@dataclass(frozen=True)
class Table:
    """Numbers of all models, a row each.

    Attributes:
        name: Its id on the page.
        title: Heading.
        groups: Columns that belong together: what they have in common, and each in words.
        rows: The numbers of each model, in the order of the page's models; None where a run has none.
    """

    name: str
    title: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[Number | None, ...], ...]

    def known(self) -> Table | None:
        """The table without columns that no model has; None if there is nothing left."""
        count = sum(len(columns) for _, columns in self.groups)
        kept = [i for i in range(count) if any(row[i] is not None for row in self.rows)]
        groups, start = [], 0
        for title, columns in self.groups:
            own = tuple(column for i, column in enumerate(columns, start) if i in kept)
            groups += [(title, own)] if own else []
            start += len(columns)
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Table(self.name, self.title, tuple(groups), rows) if groups else None


def studied(found: Sequence[StudyResults], page: Path) -> list[Studied]:
    """The models of all runs, in their order.

    Args:
        found: The runs.
        page: Where the page is to be written.
    """
    counts = Counter(model for results in found for model in results.models)
    folders = Counter(results.path.name for results in found)
    models = []
    for results in found:
        run = results.path.name if folders[results.path.name] == 1 else str(results.path)
        for model in results.models:
            facts = results.study.get("provenance", {}).get("models", {}).get(model, {})
            label = model if counts[model] == 1 else f"{model} ({run})"
            models.append(Studied(results, model, label, _address(results, page), facts.get("layers")))
    return models


def _address(results: StudyResults, page: Path) -> str:
    report = results.path / "report.html"
    if not report.is_file():
        return ""
    return quote(Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix())
