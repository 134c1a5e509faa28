"""A random study: a run folder of any size without a model.

It is written through the store of a study, cell by cell, and assembled as a study is.

The answers are as hard to compress as answers can be: each is drawn by itself. The alignment of modalities is left out
(its figures are small, and its tests take long).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xmi.measure import Answers, Phases, Projection, Silhouette, Similarity, Transfer
from xmi.names import NO_CONTEXT, SPECIFICATIONS, cell_name, icl, label_of, sweep_name
from xmi.prompt import Prompts, Task
from xmi.prompt.task import Item
from xmi.study.assemble import assemble
from xmi.study.cell import CellResult
from xmi.study.controls import chosen
from xmi.study.grid import Cell
from xmi.study.identity import Identity
from xmi.study.plan import Plan
from xmi.study.prompts import asks, follows, sweeps
from xmi.study.records import Book
from xmi.study.store import Store

MODEL = "organism"
SPLITS = {"train": 20, "validation": 11, "test": 19}
WORDS = [f"{a}{b}" for a in ("capi", "for", "lo", "mun", "pre", "sta", "ter", "vi") for b in ("ta", "ment", "s", "red")]


@dataclass(frozen=True)
class Size:
    """How large a study is; its tasks have as many items as those of the package."""

    tasks: int
    layers: int
    seeds: int


class Random:
    """Draws what a model would have answered.

    Args:
        plan: The plan.
        layers: Layers of the model.
    """

    def __init__(self, plan: Plan, layers: int) -> None:
        """Begins with a fixed seed."""
        self.plan, self.layers = plan, tuple(range(layers))
        self.sources = (*plan.sources, *(control.source for control in chosen(plan)))
        self.rng = np.random.default_rng(0)

    def scores(self, prompts: Prompts, *shape: int) -> dict[str, Any]:
        """Words, log-probabilities, ranks and hits of the given shape, one for each prompt in the last axis."""
        full = (*shape, len(prompts))
        hits = self.rng.random(full) < self.rng.random((*shape, 1))
        labels = np.array([p.answer for p in prompts], dtype=object)
        words = np.where(hits, labels, np.array(WORDS, dtype=object)[self.rng.integers(len(WORDS), size=full)])
        rank = np.where(hits, 0, 1 + self.rng.exponential(300, full).astype(int))
        likelihood = np.where(hits, -self.rng.exponential(0.3, full), -1 - self.rng.exponential(4, full))
        return {"predicted": words, "log_probability": likelihood, "rank": rank, "paper": hits, "strict": hits}

    def about(self, prompts: Prompts) -> dict[str, tuple[str, ...]]:
        """What is known of the prompts."""
        names = {"tasks": "task", "units": "unit", "answers": "answer"}
        return {field: tuple(getattr(p, name) for p in prompts) for field, name in names.items()}

    def answers(self, prompts: Prompts) -> Answers:
        """Answers to prompts."""
        drawn = self.scores(prompts)
        shown = tuple(p.input for p in prompts)
        return Answers(shown, **self.about(prompts), **drawn | {"predicted": tuple(drawn["predicted"])})

    def transfer(self, prompts: Prompts) -> Transfer:
        """A sweep over all layers with all sources."""
        drawn = self.scores(prompts, len(self.sources), len(self.layers))
        words = tuple(tuple(tuple(row) for row in one) for one in drawn["predicted"])
        clean = self.answers(prompts)
        return Transfer(self.sources, self.layers, **self.about(prompts), **drawn | {"predicted": words}, clean=clean)

    def phases(self, label: str, prompts: Prompts) -> Phases:
        """Phases of prompts."""
        depth = ("embed", *map(str, self.layers))
        mass = self.rng.dirichlet((1, 1, 1, 4), (len(prompts), len(depth)))[..., :3]
        tops = tuple(tuple((str(w), 0.2) for w in self.rng.choice(WORDS, 4, replace=False)) for _ in depth)
        known = {name: self.about(prompts)[name] for name in ("units", "tasks")}
        return Phases(label, depth, mass, np.round(40 * (1 - mass)), tops, **known)

    def geometry(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Similarity, projections and silhouette."""
        depth, count = len(self.layers) + 1, len(tasks) * len(SPECIFICATIONS)
        labels = tuple(label_of(task, s) for s in SPECIFICATIONS for task in tasks)
        groups = tuple(task for _ in SPECIFICATIONS for task in tasks)
        unit = self.rng.normal(size=(depth, count, 16))
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
        values = unit @ unit.transpose(0, 2, 1)
        points = [(task, icl(m)) for task in tasks for m in ("text", "image") for _ in range(self.plan.points)]
        named = tuple(task for task, _ in points), tuple(kind for _, kind in points), tuple(range(depth))
        plane, share = self.rng.normal(size=(depth, len(points), 2)), np.full((depth, 2), 0.3)
        return {
            "similarity": Similarity(labels, groups, values),
            "similarity.centred": Similarity(labels, groups, values[::-1].copy(), centred=True),
            "projection.pca": Projection("pca", *named, plane, share),
            "projection.tsne": Projection("tsne", *named, plane[::-1].copy(), np.full_like(share, np.nan)),
            "silhouette": Silhouette(named[2], *self.rng.uniform(-1, 1, (2, depth))),
        }


def make_tasks(count: int, folder: Path) -> dict[str, Task]:
    """Tasks of random inputs and labels, with pictures of one colour."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    pictures = [folder / f"{i}.png" for i in range(40)]
    for path in pictures:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    tasks = {}
    for number in range(count):
        name, splits = f"random-task-{number:02d}", [split for split, n in SPLITS.items() for _ in range(n)]
        items = [
            Item(f"input {i} of {number}", f"{WORDS[rng.integers(len(WORDS))]}{i % 7}", pictures[i % 40], split)
            for i, split in enumerate(splits)
        ]
        tasks[name] = Task(name, tuple(items), ("Name what belongs to the input.",), ("thing",))
    return tasks


def make_run(folder: Path, size: Size) -> Path:
    """Writes a run folder of a random study through the store."""
    tasks = make_tasks(size.tasks, folder / "pictures")
    plan = Plan(model=MODEL, tasks=tuple(tasks), seeds=tuple(range(size.seeds)), experiments=(), base=None)
    drawn = Random(plan, size.layers)
    identity = Identity(f"random {size}", {MODEL: "random"}, dict.fromkeys(tasks, "random"), {})
    store = Store(folder / "run", plan, identity)
    store.open()
    store.begin({MODEL: {"id": MODEL, "role": "model"}}, {"versions": {}, "numbers": "drawn at random"})
    cells = [Cell("ask", MODEL, task, seed) for seed in plan.seeds for task in tasks]
    for cell in cells:
        store.put(store.pack(cell, _asked(cell, tasks[str(cell.task)], drawn), (), {}))
    cells.append(Cell("geometry", MODEL, None, plan.seeds[0]))
    store.put(store.pack(cells[-1], CellResult(result=drawn.geometry(list(tasks))), (), {}))
    assemble(store, cells, tasks)
    return store.path


def _asked(cell: Cell, task: Task, drawn: Random) -> CellResult:
    """What a cell of queries gives."""
    book, answers, transfers = Book(cell), {}, {}
    for ask in asks(drawn.plan, task, cell.seed):
        found = answers[cell_name(ask.source, ask.target)] = drawn.answers(ask.prompts)
        book.prompted(ask.source, ask.target, ask.prompts, found)
    for step in sweeps(drawn.plan, task):
        swept = transfers[sweep_name(step.target, step.split)] = drawn.transfer(step.prompts)
        book.patched(step.target, step.prompts, swept)
        if step.split == "test":
            answers[cell_name(NO_CONTEXT, step.target)] = swept.clean
            book.prompted(NO_CONTEXT, step.target, step.prompts, swept.clean)
    phases = {label: drawn.phases(label, prompts) for label, prompts in follows(drawn.plan, task, cell.seed)}
    return CellResult(answers, transfers, phases, records=book.records, images=book.images)
