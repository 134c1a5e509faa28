"""The queries of a task: prompted, patched with every vector, and followed through the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from xmi.measure import Answers, TaskWords, Transfer, boundaries, comparisons, majority_answers, merge
from xmi.names import ASKED, MAJORITY, NO_CONTEXT, cell_name, is_of_base, label_of, parts_of, sweep_name
from xmi.prompt import Prompts, Task
from xmi.study.cell import CellResult, Memory
from xmi.study.controls import chosen
from xmi.study.experiments.experiment import Experiment, Forward, Given, Inputs
from xmi.study.experiments.lens import Lens, trained_lens
from xmi.study.experiments.vectors import BaseVectors, Vectors
from xmi.study.experiments.words import Words
from xmi.study.plan import ENSEMBLES, Plan
from xmi.study.prompts import asks, follows, sweeps, words_wanted
from xmi.study.records import Book
from xmi.study.summary import by_task, summary
from xmi.vector import TaskVector, ensemble

if TYPE_CHECKING:
    from xmi.study.grid import Cell
    from xmi.study.store import Stored
    from xmi.vlm import VLM

T = TypeVar("T")


class Queries(Experiment):
    """Asks one task, once the vectors of all are read: prompts, sweeps and phases."""

    kind, of_a_task, every_seed = "ask", True, True
    takes = (BaseVectors.kind, Vectors.kind, Lens.kind, Words.kind)
    doing, work = "queries", "prompts, sweeps and phases of a task"

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """Everything at once; phases of prompts that are asked share their forwards."""
        task = tasks[str(cell.task)]
        tokens = longest_label(vlm, task) if plan.whole else 1
        sets, layers = len(plan.sources) + len(plan.controls), len(plan.layers or range(vlm.backbone.n_layers))
        found = [Forward(ask.prompts, tokens) for ask in asks(plan, task, cell.seed)]
        if task.task_words or words_wanted(plan, list(tasks.values())):
            asked = [one.prompts for one in found]
            found += [Forward(p) for _, p in follows(plan, task, cell.seed) if p not in asked]
        queries = [sweep.prompts for sweep in sweeps(plan, task)]
        return [[*found, *(Forward(p, tokens, sets, layers, shares=i > 0) for i, p in enumerate(queries))]]

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Asks them."""
        plan, task, read = inputs.plan, inputs.tasks[str(cell.task)], inputs.vectors()
        words = inputs.once(Words.kind)
        chosen_words = _words(plan, task, words.measured["result"] if words is not None else None)
        vectors = patched_vectors(plan, cell, read)
        asked, swept = list(asks(plan, task, cell.seed)), list(sweeps(plan, task))
        followed = dict(follows(plan, task, cell.seed)) if chosen_words else {}
        labels = [next((label for label, p in followed.items() if p == ask.prompts), None) for ask in asked]
        rest = [label for label in followed if label not in labels]  # of queries that are not asked
        follow = {"task_words": chosen_words, "lens": trained_lens(inputs)}
        prompts = [(ask.prompts, bool(label)) for ask, label in zip(asked, labels, strict=True)]
        others = [followed[label] for label in rest]
        found = _together(cell, inputs, vectors, prompts, [step.prompts for step in swept], others, follow)

        book, answers, transfers, phases = Book(cell), {}, {}, {}
        for ask, label in zip(asked, labels, strict=True):
            given = next(found)
            if label:
                phases[label], given = given
            answers[cell_name(ask.source, ask.target)] = given
            book.prompted(ask.source, ask.target, ask.prompts, given)
        for step in swept:
            result = transfers[sweep_name(step.target, step.split)] = next(found)
            book.patched(step.target, step.prompts, result)
            if step.split == "test":
                answers[cell_name(NO_CONTEXT, step.target)] = result.clean
                book.prompted(NO_CONTEXT, step.target, step.prompts, result.clean)
        phases |= dict(zip(rest, found, strict=True))
        own = {(str(cell.task), s): vector for s, vector in vectors.items() if s not in read[str(cell.task)]}
        return CellResult(
            answers, transfers, {label: phases[label] for label in followed}, own, records=book.records,
            images=book.images,
        )  # fmt: skip

    def gives(self, found: Mapping[Cell, Stored], plan: Plan, tasks: Mapping[str, Task]) -> Given:
        """Answers, sweeps and phases pooled over tasks and seeds, and the tables that are made from them."""
        own = self.own(found)
        parts = [stored.measured for stored in own.values()]
        answers = {name: Answers.concat([p["answers"][name] for p in parts]) for name in parts[0]["answers"]}
        transfers = {name: Transfer.concat([p["transfers"][name] for p in parts]) for name in parts[0]["transfers"]}
        results: dict[str, Any] = {f"answers.{name}": value for name, value in answers.items()}
        results |= {f"transfer.{name}": value for name, value in transfers.items()}
        results |= _phases(list(own), parts, {key: task.name for key, task in tasks.items()})
        training = {task.name: [item.output for item in task.split("train")] for task in tasks.values()}
        answers |= {
            cell_name(MAJORITY, t): majority_answers(transfers[sweep_name(t, "test")], training) for t in plan.targets
        }
        tables = {
            "summary": summary(answers, transfers, plan.score, plan.ties),
            "by_task": by_task(answers, transfers, plan.score, plan.ties),
            "comparisons": comparisons(answers, transfers, score=plan.score, ties=plan.ties),
            **{f"transfer.{name}": transfer.to_frame() for name, transfer in transfers.items()},
        }
        return Given(results, tables)


def _together(
    cell: Cell,
    inputs: Inputs,
    vectors: Mapping[str, TaskVector],
    prompts: Sequence[tuple[Prompts, bool]],
    queries: Sequence[Prompts],
    rest: Sequence[Prompts],
    follow: Mapping[str, Any],
) -> Iterator[Any]:
    """Asks everything at once.

    Args:
        cell: Which cell.
        inputs: What it is done with.
        vectors: What is patched in, by source.
        prompts: Prompts to answer, and whether their phases are followed in the same forwards.
        queries: What vectors are patched into.
        rest: Prompts of which only phases are followed.
        follow: How phases are followed.

    Returns:
        What comes of them, in this order.
    """
    plan, vlm, once = inputs.plan, inputs.vlm, inputs.memory
    new = longest_label(vlm, inputs.tasks[str(cell.task)]) if plan.whole else None
    # Vectors of the base LLM are meant.
    where: dict[str, Any] = {
        "layers": plan.layers, "slot": plan.patch_slot, "foreign": any(map(is_of_base, vectors)), "max_new_tokens": new,
    }  # fmt: skip
    todo: list[Callable[[], Any]] = []
    for given, both in prompts:
        answer = partial(vlm.phases_and_answers, **follow) if both else vlm.answers
        todo.append(partial(_ask, once, cell, given, partial(answer, given, max_new_tokens=new)))
    todo += [partial(vlm.transfer, vectors, given, **where) for given in queries]
    todo += [partial(_ask, once, cell, given, partial(vlm.phases, given, **follow)) for given in rest]
    return iter(vlm.engine.together(todo))


def _ask(once: Memory, cell: Cell, prompts: Prompts, make: Callable[[], T]) -> T:
    """Asks prompts, from memory if they have no examples that a seed draws."""
    return make() if prompts.shots else once((cell.model, prompts), make)


def _words(plan: Plan, task: Task, found: TaskWords | None) -> tuple[str, ...] | TaskWords:
    """What a task's phase follows; nothing if no words are given or found, and then its phases are left out."""
    if task.task_words and (plan.task_words == "given" or found is None):
        return task.task_words
    return found if found is not None and found.of(task.name) else ()


def patched_vectors(plan: Plan, cell: Cell, read: Mapping[str, Mapping[str, TaskVector]]) -> dict[str, TaskVector]:
    """The vectors of one task that are patched in: those read, their ensembles, and the controls.

    Controls that need other tasks are left out where there are none.
    """
    task = str(cell.task)
    own = read[task]
    found = {name: own[name] for name in plan.sources if name in own}
    found |= {name: ensemble(*(own[p] for p in parts_of(name))) for name in ENSEMBLES if name in plan.sources}
    found = {name: found[name] for name in plan.sources if name in found}
    for control in chosen(plan):
        vector = control.make(task, read, cell.seed) if control.make else own.get(control.source)
        if vector is not None:
            found[control.source] = vector
    return found


def longest_label(vlm: VLM, task: Task) -> int:
    """How many tokens the longest label of a task's validation and test items has."""
    labels = [label for split in ASKED for item in task.split(split) for label in item.outputs]
    before = vlm.encoder.written(task.template).delimiter
    return max(vlm.encoder.length(before, label) for label in labels)


def _phases(cells: Sequence[Cell], parts: Sequence[dict[str, Any]], names: Mapping[str, str]) -> dict[str, Any]:
    """Phases of each specification pooled over tasks and seeds, then of each task pooled over seeds."""
    found: dict[str, Any] = {}
    for number, kind in enumerate(dict.fromkeys(kind for part in parts for kind in part["phases"])):
        having = [(cell, p["phases"][kind]) for cell, p in zip(cells, parts, strict=True) if kind in p["phases"]]
        found[f"phases.{number:02d}"] = merge(kind, [phases for _, phases in having])
        for k, (task, name) in enumerate(names.items()):
            if mine := [phases for cell, phases in having if cell.task == task]:
                found[f"phases.{number:02d}.{k:02d}"] = merge(label_of(name, kind), mine)
    pooled = [phases for name, phases in found.items() if name.count(".") == 1]
    return found | ({"boundaries": boundaries(pooled)} if pooled else {})


EXPERIMENTS = (Queries(),)
