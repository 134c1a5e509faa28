"""Averaging task vectors of more and more examples, with and without the instruction's vector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from xmi.errors import VectorError
from xmi.measure import Transfer
from xmi.measure.ensembling import EnsembleCurve
from xmi.names import INSTRUCTION
from xmi.prompt import Task
from xmi.session import Session
from xmi.vector.compare import ensemble
from xmi.vector.extract import nested_vectors
from xmi.vector.patch import transfer
from xmi.vector.task_vector import TaskVector


def ensembling(
    session: Session,
    tasks: Task | Sequence[Task],
    modality: str = "text",
    *,
    query: str = "image",
    prompts: Sequence[int] = (1, 2, 3, 5, 10, 20, 30),
    shots: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    layer: int | None = None,
    n: int | None = None,
) -> EnsembleCurve:
    """Accuracy against the number of examples behind a task vector, with and without the instruction's vector.

    The vectors of one seed are nested: each is the mean over the first of the largest one's prompts. All vectors
    of a task share one sweep per split.

    Args:
        tasks: One task, or several of which the mean is taken.
        modality: `text` or `image`, of the examples.
        query: `text` or `image`, of the context-free queries.
        prompts: How many prompts to average, rising.
        shots: Examples per prompt.
        seeds: Seeds of the examples.
        layer: Where to patch; by default the layer that is best on validation queries, mean over all vectors,
            seeds and tasks, so that the curves differ in their vectors only.
        n: Queries per task and split; by default all.

    Returns:
        The curve on test queries; its `gain()` is what the instruction adds at each number of examples.

    Raises:
        VectorError: Numbers of prompts that do not rise, or tasks or seeds that repeat.
        TaskError: A task lacks an instruction, items or images.

    Source: Luo, Darrell and Bar, ICML 2025, section 5.

    Examples:
        >>> curve = vlm.ensembling(task, prompts=(1, 3), seeds=(0,), layer=4, n=4)
        >>> curve.to_frame()[["examples", "n"]]
           examples  n
        0         1  4
        1         1  4
        2         3  4
        3         3  4
    """
    return ensembling_of(
        session, tasks, modality, queries=[query], prompts=prompts, shots=shots, seeds=seeds, layer=layer, n=n
    )[0]


def ensembling_of(
    session: Session,
    tasks: Task | Sequence[Task],
    modality: str = "text",
    *,
    queries: Sequence[str] = ("text", "image"),
    prompts: Sequence[int] = (1, 2, 3, 5, 10, 20, 30),
    shots: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    layer: int | None = None,
    n: int | None = None,
    slot: str = "last",
    patch_slot: str = "last",
) -> list[EnsembleCurve]:
    """What `ensembling` returns for queries of several modalities, the vectors read once.

    `slot` is where examples are read (an instruction is read at its last token), `patch_slot` where queries are
    patched.

    Examples:
        >>> curves = vlm.ensembling_of(task, queries=("text", "image"), prompts=(1, 3), seeds=(0,), layer=4, n=4)
        >>> [curve.examples for curve in curves]
        [(1, 3), (1, 3)]
    """
    every = [tasks] if isinstance(tasks, Task) else list(tasks)
    counts, together = tuple(prompts), session.engine.together
    if not counts or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
        raise VectorError(f"The numbers of prompts to average must rise from 1 or more; got {list(counts)}.")
    names = [task.name for task in every]
    if not names or len(set(names)) < len(names) or not seeds or len(set(seeds)) < len(seeds):
        raise VectorError(f"Need distinct tasks and distinct seeds; got {names} and the seeds {list(seeds)}.")
    sets = together(partial(_vectors, session, t, modality, counts, shots, seeds, slot) for t in every)

    def curve(query: str) -> EnsembleCurve:
        def asked(split: str, layers: Sequence[int] | None) -> list[Transfer]:
            to = [t.queries(query, split=split, n=n) for t in every]
            return together(
                partial(transfer, session, own, some, layers=layers, slot=patch_slot)
                for own, some in zip(sets, to, strict=True)
            )

        best = Transfer.concat(asked("validation", None)).best_layer if layer is None else layer
        found = asked("test", [best])
        return EnsembleCurve.concat(
            [_curve(f, f"{modality} ICL", query, f.layers[0], counts, shots, seeds) for f in found]
        )

    return together(partial(curve, query) for query in queries)


def _name(kind: int, count: int, seed: int) -> str:
    return f"{count} prompts, seed {seed}{f' + {INSTRUCTION}' if kind else ''}"


def _vectors(
    session: Session,
    task: Task,
    modality: str,
    counts: Sequence[int],
    shots: int,
    seeds: Sequence[int],
    slot: str,
) -> dict[str, TaskVector]:
    """Every vector of a task: as many prompts are read as the largest needs; the others are means of the first."""
    together = session.engine.together
    drawn = [task.icl(modality, shots=shots, n=counts[-1], seed=seed, split=task.examples) for seed in seeds]
    instruction = task.instruction()
    sets = [(instruction, (len(instruction),), "last"), *((prompts, counts, slot) for prompts in drawn)]
    (told,), *nested = together(partial(nested_vectors, session, some, sizes, slot=at) for some, sizes, at in sets)
    found = {INSTRUCTION: told}
    for seed, vectors in zip(seeds, nested, strict=True):
        for count, plain in zip(counts, vectors, strict=True):
            found |= {_name(0, count, seed): plain, _name(1, count, seed): ensemble(plain, told)}
    return found


def _curve(
    found: Transfer,
    source: str,
    query: str,
    layer: int,
    counts: Sequence[int],
    shots: int,
    seeds: Sequence[int],
) -> EnsembleCurve:
    rows = [[[found.sources.index(_name(kind, c, s)) for s in seeds] for c in counts] for kind in (0, 1)]
    told = found.sources.index(INSTRUCTION)
    return EnsembleCurve(
        source=source,
        target=query,
        layer=layer,
        shots=shots,
        examples=tuple(c * shots for c in counts),
        seeds=tuple(seeds),
        tasks=found.tasks,
        units=found.units,
        paper=found.paper[np.array(rows), 0],
        strict=found.strict[np.array(rows), 0],
        told_paper=found.paper[told, 0],
        told_strict=found.strict[told, 0],
        clean_paper=found.clean.paper,
        clean_strict=found.clean.strict,
    )
