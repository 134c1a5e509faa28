"""Averaging task vectors of more and more examples, with and without the instruction's vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from xmi.errors import VectorError
from xmi.measure import Transfer
from xmi.measure.ensembling import EnsembleCurve
from xmi.names import INSTRUCTION
from xmi.prompt import Prompts, Task
from xmi.vector.compare import ensemble
from xmi.vector.task_vector import TaskVector

Read = Callable[[Prompts, Sequence[int]], list[TaskVector]]
Together = Callable[[Iterable[Callable[[], Any]]], list[Any]]
Patch = Callable[[Mapping[str, TaskVector], Prompts, "Sequence[int] | None"], Transfer]


def ensembling(
    tasks: Sequence[Task],
    read: Read,
    patch: Patch,
    together: Together,
    *,
    modality: str,
    queries: Sequence[str],
    prompts: Sequence[int],
    shots: int,
    seeds: Sequence[int],
    layer: int | None,
    n: int | None,
) -> list[EnsembleCurve]:
    """Accuracy against the number of examples; see `VLM.ensembling`.

    Args:
        tasks: The tasks.
        read: Reads the means over the first so many of some prompts.
        patch: Patches named vectors into queries at some layers, by default all.
        together: Does several of these that do not need one another, `Engine.together`.
        modality: Modality of the examples.
        queries: Modalities of the queries.
        prompts: Numbers of prompts to average.
        shots: Examples per prompt.
        seeds: Seeds of the examples.
        layer: Where to patch; None chooses on validation queries.
        n: Queries per task and split, None for all.

    Returns:
        A curve for each modality.

    Raises:
        VectorError: No tasks or seeds, tasks of one name, or numbers of prompts that are not rising.
        TaskError: A task lacks an instruction, items or images.
    """
    counts = tuple(prompts)
    if not counts or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
        raise VectorError(f"The numbers of prompts to average must rise from 1 or more; got {list(counts)}.")
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names) or not seeds or len(set(seeds)) < len(seeds):
        raise VectorError(f"Need distinct tasks and distinct seeds; got {names} and the seeds {list(seeds)}.")
    sets = together(partial(_vectors, t, read, together, modality, counts, shots, seeds) for t in tasks)

    def curve(query: str) -> EnsembleCurve:
        def asked(split: str, layers: Sequence[int] | None) -> list[Transfer]:
            to = [t.queries(query, split=split, n=n) for t in tasks]
            return together(partial(patch, own, some, layers) for own, some in zip(sets, to, strict=True))

        best = Transfer.concat(asked("validation", None)).best_layer if layer is None else layer
        found = asked("test", [best])
        return EnsembleCurve.concat(
            [_curve(f, f"{modality} ICL", query, f.layers[0], counts, shots, seeds) for f in found]
        )

    return together(partial(curve, query) for query in queries)


def _name(kind: int, count: int, seed: int) -> str:
    return f"{count} prompts, seed {seed}{f' + {INSTRUCTION}' if kind else ''}"


def _vectors(
    task: Task, read: Read, together: Together, modality: str, counts: Sequence[int], shots: int, seeds: Sequence[int]
) -> dict[str, TaskVector]:
    """Every vector of a task: as many prompts are read as the largest needs; the others are means of the first."""
    drawn = [task.icl(modality, shots=shots, n=counts[-1], seed=seed, split=task.examples) for seed in seeds]
    instruction = task.instruction()
    sizes = [(instruction, [len(instruction)]), *((prompts, counts) for prompts in drawn)]
    (told,), *nested = together(partial(read, prompts, some) for prompts, some in sizes)
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
