"""One figure of every kind, small, with numbers that are awkward to print: tiny, negative, missing, equal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tests.measure.synthetic import answers, sweep
from xmi import plot
from xmi.measure import (
    Alignment,
    AttentionPattern,
    LensReading,
    Phases,
    Projection,
    Silhouette,
    Similarity,
    Trajectory,
    alignment,
    comparisons,
    layerwise,
)
from xmi.measure import boundaries as phase_boundaries
from xmi.measure.base_comparison import BaseSimilarity
from xmi.measure.overriding import Overriding
from xmi.measure.task_words import TaskWords
from xmi.plot.depth import by_depth

CONTROLS = ("random vector", "another task", "mean over tasks", "shuffled labels", "unrelated slot")
SOURCES = (
    "text ICL", "image ICL", "instruction", "text ICL + instruction", "base LLM text ICL", "text ICL + image ICL",
    "1 example", *(f"control: {name}" for name in CONTROLS),
)  # fmt: skip
ITEMS = [f"{'ab'[i % 2]}/{i}" for i in range(12)]
TASKS = [item[0] for item in ITEMS]


def measured(label: str, seed: int = 0, *, others: bool = True, layers: int = 4, model: str = "") -> Phases:
    """Phases of a few prompts, with other labels of the task followed or not."""
    rng = np.random.default_rng(seed)
    depth = ("embed", *map(str, range(layers)))
    place = np.linspace(0, 1, layers + 1)
    mass = np.stack([1 - place, np.exp(-(((place - 0.5) / 0.25) ** 2)), place**3], -1) * 0.4
    probability = np.clip(mass + rng.random((12, layers + 1, 3)) * 0.02, 0, 1)
    rest = {"other_labels": probability[..., 1] / 2, "other_labels_rank": np.ones((12, layers + 1))} if others else {}
    tops = ((("<b>", 0.5), ("x", 0.25)),) * (layers + 1)
    return Phases(label, depth, probability, probability * 0, tops, tuple(ITEMS), tuple(TASKS), model=model, **rest)


def overriding() -> Overriding:
    """A patched task that wins in the middle layers."""
    layers, count = (0, 1, 2, 3), 12
    runs = 2 + 2 * len(layers)
    paper = np.zeros((2, runs, count), bool)
    paper[0, :2] = True
    paper[1, 3:5] = True
    split = tuple("validation" if i < 4 else "test" for i in range(count))
    return Overriding(
        "text ICL", "text ICL", layers, ("a",) * count, ("b",) * count, tuple(ITEMS), split,
        (("x",) * count,) * runs, paper, paper,
    )  # fmt: skip


@cache
def transfer() -> object:
    """A sweep of every source, all controls among them."""
    rng = np.random.default_rng(1)
    hits = rng.random((len(SOURCES), 4, 12)) < np.linspace(0.9, 0.1, len(SOURCES))[:, None, None]
    return sweep(hits, SOURCES, ITEMS, TASKS)


@cache
def table() -> pd.DataFrame:
    """Contrasts of that sweep."""
    found = transfer()
    cells = {"text ICL > image": answers([True] * 12, ITEMS, TASKS), "no context > image": found.clean}
    return comparisons(cells, {"image.validation": found, "image.test": found})


def menu() -> go.Figure:
    """The phases of a study, with its menu of tasks."""
    parts = [measured(s, i) for i, s in enumerate(("text ICL", "image ICL"))]
    parts += [measured(f"{t} · {s}", i + 5) for i, t in enumerate("ab") for s in ("text ICL", "image ICL")]
    return plot.phases(parts)


def _cosines(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0.3, 0.9, (3, 4, 4))
    values[:, 0, 1] = -0.001
    return values


@cache
def aligned() -> Alignment:
    points = np.random.default_rng(2).normal(size=(40, 3, 6))
    return alignment(points, [f"t{i}" for i in range(5) for _ in range(8)], ["text", "image"] * 20, permutations=19)


FIGURES: dict[str, Callable[[], go.Figure]] = {
    "transfer": lambda: plot.figure_of(transfer(), chosen={"text ICL": 11}),
    "phases": menu,
    "phases absolute": lambda: plot.phases([measured("x"), measured("t · x", 3)], measure="absolute"),
    "phases relative depth": lambda: plot.phases(
        [measured("a", model="m"), measured("a", layers=7, model="n"), measured("t · a", 2, model="m")], x="relative"
    ),
    "boundaries": lambda: plot.boundaries(phase_boundaries([measured("a"), measured("b", 4)])),
    "comparisons": lambda: plot.comparisons(table()),
    "layer comparison": lambda: plot.layer_comparison(layerwise(transfer(), "text ICL", "control: random vector")),
    "overriding": lambda: plot.overriding(overriding()),
    "similarity": lambda: plot.similarity(Similarity(tuple("abcd"), ("a", "a", "b", "b"), _cosines(0))),
    "projection": lambda: plot.projection(
        Projection(
            "pca",
            ("a", "b"),
            ("text", "image"),
            (0, 1),
            np.ones((2, 2, 2)) * [[[1, 2]], [[3, 4]]],
            np.full((2, 2), 0.25),
        )
    ),
    "silhouette": lambda: plot.silhouette(
        Silhouette((0, 1, 2), np.array([-0.001, 0.2, np.nan]), np.array([0.1, -0.002, 0.3]), np.array([0.9, 0.01, 1.0]))
    ),
    "alignment cosine": lambda: plot.figure_of(aligned(), kind="cosine"),
    "alignment centroids": lambda: plot.figure_of(aligned(), kind="centroids"),
    "alignment shape": lambda: plot.figure_of(aligned(), kind="shape"),
    "by depth": lambda: by_depth(
        {
            name: pd.DataFrame({"depth": [0.25, 0.5, 1], "value": [0.1, None, 0.9], "low": low, "high": [0.2, 0.4, 1]})
            for name, low in (("m", [0.0, 0.2, 0.8]), ("<n>", [None, 0.1, 0.7]))
        }
    ),
    "base_similarity": lambda: plot.base_similarity(BaseSimilarity(("a", "b"), _cosines(1)[:, :2, :2])),
    "task words": lambda: plot.task_words(
        TaskWords(("a",), (" w",), (1,), ("3",), np.array([0.5]), np.array([0.1]), np.array([1.0]), ("a",))
    ),
    "reading": lambda: plot.reading(
        LensReading(("embed", "0"), ((("a",), ("b",)),), np.array([[[0.5], [0.2]]]), "last")
    ),
    "trajectory": lambda: plot.trajectory(
        Trajectory(("embed", "0", "1"), *(np.array([[3.0, 2, n], [4, np.nan, 0]]) for n in (0.0, 1e-9, 1)), "last")
    ),
    "attention": lambda: plot.attention(
        AttentionPattern(("<b>", "i", "i", "x"), ("text", "image 0", "image 0", "text"), np.full((2, 4, 4), 0.25), 3)
    ),
    "accuracies": lambda: plot.accuracies(answers([True, False] * 6, ITEMS, TASKS)),
}


@cache
def drawn(kind: str) -> go.Figure:
    """The figure of a kind, drawn once."""
    return FIGURES[kind]()
