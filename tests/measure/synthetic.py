"""Answers with known chances of a hit, for the statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmi.measure import Answers, Transfer


def answers(
    hits: Sequence[bool] | np.ndarray,
    units: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    written: Sequence[str] | None = None,
) -> Answers:
    """Answers whose `paper` hits are given; `strict` is the opposite."""
    right = np.asarray(hits, dtype=bool)
    names = tuple(units if units is not None else (f"u{i}" for i in range(len(right))))
    tasks = tuple(tasks if tasks is not None else ("t",) * len(right))
    said = tuple("x" if hit else "y" for hit in right)
    zeros = np.zeros(len(right))
    return Answers(
        names, tasks, names, tuple(labels or ("x",) * len(right)), said, zeros, zeros.astype(int), right, ~right,
        continuations=None if written is None else tuple(written),
    )  # fmt: skip


def sweep(
    hits: np.ndarray, sources: Sequence[str], units: Sequence[str], tasks: Sequence[str], *, written: str = ""
) -> Transfer:
    """A sweep whose `paper` hits [source, layer, query] are given; no query is right without a patch."""
    right = np.asarray(hits, dtype=bool)
    n_sources, n_layers, n = right.shape
    said = tuple(tuple(tuple("x" if h else "y" for h in row) for row in layers) for layers in right)
    clean = answers([False] * n, units, tasks, written=["-"] * n if written else None)
    texts = tuple(((written,) * n,) * n_layers for _ in range(n_sources)) if written else None
    return Transfer(
        tuple(sources), tuple(range(10, 10 + n_layers)), clean.tasks, clean.units, clean.answers, said,
        np.zeros(right.shape), np.zeros(right.shape, int), right, ~right, clean, texts,
    )  # fmt: skip
