"""A stored study, read back: the one object that tables, figures and the report are made from.

No model is needed to read a run folder; everything here comes from its files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import ValidationError

from xmi.arguments import check_calls
from xmi.errors import NotMeasuredError, RunError
from xmi.faults import explain, some
from xmi.measure import (
    Alignment,
    Answers,
    BaseComparison,
    BaseSimilarity,
    Boundaries,
    EnsembleCurve,
    Overriding,
    Phases,
    Projection,
    Result,
    Silhouette,
    Similarity,
    TaskWords,
    Transfer,
)
from xmi.measure.result import decode
from xmi.names import TEXT_ICL, Modality, sweep_name
from xmi.numerals import share
from xmi.shown import Shown
from xmi.study.folder import ANEW, FINISHED, JOBS, RECORDS, STUDY, read_index, read_study
from xmi.study.headline import headline
from xmi.study.records_file import RecordsFile
from xmi.study.sealed import digest_of
from xmi.study.summary import on_split
from xmi.study.tables import read_table

if TYPE_CHECKING:  # a stored study is read without torch
    import plotly.graph_objects as go

    from xmi.study.plan import Plan
    from xmi.vector import TaskVector

R = TypeVar("R", bound=Result)


class StudyResults(Shown):
    """Reads the run folder of a finished study.

    Attributes:
        path: The run folder.
        study: What was asked (`plan`) and how it was done (`provenance`); where libraries changed while the run was
            going on, their versions say how many cells each made.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens a run folder.

        Raises:
            RunError: The folder does not exist, holds no study, or the study is unfinished; or a file that is read
                here is missing, damaged or another one.
        """
        self.path = Path(path)
        self.study = read_study(self.path)
        self._index = read_index(self.path)
        if self._index["study"] != self.study["identity"]:
            raise RunError(f"{self.path / FINISHED} is of another study than {self.path / STUDY}. {ANEW}")
        self.study["provenance"] |= _versions(self.study["provenance"], self._index["made_with"])
        self._tables: dict[Path, pd.DataFrame] = {}
        self._results: dict[Path, Result] = {}

    def _facts(self) -> dict[str, Any]:
        return {"path": self.path, "models": self.models, "tasks": self.tasks}

    def _lead(self) -> str:
        return self.headline

    def _rows(self) -> Iterator[dict[str, Any]]:
        for _, row in self.accuracy(method="patch").iterrows():
            told = share(row["accuracy"], row["low"], row["high"])
            yield {**row[["model", "source", "target"]], "layer": int(row["layer"]), "accuracy": told, "n": row["n"]}

    @property
    def plan(self) -> Plan:
        """What was asked, with everything that was left to defaults.

        Raises:
            RunError: The plan in the run folder is not one that this version of xmi can read.
        """
        from xmi.study.plan import Plan

        try:
            return Plan(**self.study["plan"])
        except ValidationError as error:
            why = "; ".join(explain(error))
            raise RunError(f"The plan in {self.path / STUDY} is none of this version of xmi: {why}") from None

    @property
    def headline(self) -> str:
        """The finding in one sentence, with which the report begins, too.

        Text ICL vectors in image queries, where they were patched: the accuracy with its interval and number of items,
        beside prompt, random vector, no context and the same patch in other models.
        """
        return headline({model: self.summary(model) for model in self.models})

    @property
    def vectors(self) -> pd.DataFrame:
        """The task vectors that the run folder holds, which `vector` reads: model, task, source, seed, file."""
        columns = ["model", "task", "source", "seed", "file"]
        return pd.DataFrame(self._index.get("vectors", ()), columns=columns)

    def accuracy(
        self,
        *,
        model: str | None = None,
        method: str | None = None,
        source: str | None = None,
        target: str | None = None,
        task: str | None = None,
        split: Literal["test", "validation"] = "test",
    ) -> pd.DataFrame:
        """Accuracies, of all that was asked or of a part of it.

        Args:
            model: Name of one model; all by default.
            method: `prompt`, `patch` or `no context`.
            source: Specification, ensemble or control: `text ICL`, `control: random vector`, ...
            target: Modality of the query, `text` or `image`.
            task: Name of one task; the mean over tasks by default.
            split: `test`, or `validation` for the items that layers were chosen on, which are asked with patches alone.

        Returns:
            On test items the rows of `summary`, or of `by_task` if a task is named, with the model in front; on
            validation items model, method, source, target, layer (the chosen one), accuracy, low, high, n, and task if
            one is named.

        Raises:
            NotMeasuredError: Something that was asked for was not measured; it says what was.
        """
        named = {"model": model, "method": method, "source": source, "target": target, "task": task}
        frames = {m: self._accuracies(m, task is not None, split) for m in self.models}
        found = pd.concat([frame.assign(model=m) for m, frame in frames.items()], ignore_index=True)
        for column, value in named.items():
            if value is not None:
                there = found[column].drop_duplicates()
                found = found[found[column] == value]
                if found.empty:
                    raise NotMeasuredError(f"{self.path} has no {column} {value!r} there; it has {some(there)}.")
        return found[["model", *(c for c in found.columns if c != "model")]].reset_index(drop=True)

    def _accuracies(self, model: str, by_task: bool, split: str) -> pd.DataFrame:
        table = self.by_task(model) if by_task else self.summary(model)
        if split == "test":
            return table
        sweeps = {
            target: self.transfer(model, target, split) for target in table.query("method == 'patch'").target.unique()
        }
        return on_split(table, sweeps, self.study["plan"].get("score", "paper"))

    def chosen_layer(
        self, source: str = TEXT_ICL, target: Modality = "image", *, task: str | None = None, model: str | None = None
    ) -> int:
        """The layer at which a vector is patched: the best one on validation items.

        Args:
            source: Specification, ensemble or control.
            target: Modality of the query.
            task: Choose by this task's validation items alone; by default all tasks have one layer.
            model: Name of the model; the main one by default.

        Raises:
            NotMeasuredError: That was not patched; it says what was.
        """
        of = self.models[0] if model is None else model
        found = self.accuracy(model=of, method="patch", target=target, source=source, task=task)
        return int(found.iloc[0]["layer" if task is None else "own_layer"])

    def figure(self, target: Modality = "image", *, model: str | None = None) -> go.Figure:
        """The layer sweeps into text or image queries, drawn.

        Args:
            target: Modality of the query.
            model: Name of the model; the main one by default.

        Returns:
            The plotly figure of `transfer`.

        Raises:
            RunError: There are none.
        """
        return self.transfer(self.models[0] if model is None else model, target).figure()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models studied, the main one first."""
        return tuple(self.study["models"])

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.study["plan"]["tasks"])

    def summary(self, model: str) -> pd.DataFrame:
        """The specification x modality table of one model, means over tasks on test items.

        Returns:
            One row per cell: method (`prompt`, `patch`, `no context`), source (specification), target (modality
            of the query), layer (chosen on validation; NaN for prompts), accuracy, low, high, n, paper, strict, whole,
            by_task (the accuracy if every task has a layer of its own).
        """
        return self._table(model, "summary")

    def by_task(self, model: str) -> pd.DataFrame:
        """The same table task by task.

        Returns:
            One row per row of `summary` and task: method, source, target, task, layer, accuracy, low, high, n, paper,
            strict, whole, own_layer (best on the task's own validation items) and own_accuracy (there).
        """
        return self._table(model, "by_task")

    def _table(self, model: str, name: str) -> pd.DataFrame:
        path = self._file("tables", model, name)
        if path not in self._tables:
            self._tables[path] = read_table(path)
        return self._tables[path].copy()

    def comparisons(self, model: str) -> pd.DataFrame:
        """The study's contrasts: xPatch against xBase, each source against each control, and so on.

        Returns:
            One row per contrast with the paired difference of accuracies on test items, its 95 % interval, the
            permutation test's p and p corrected over all contrasts (Holm, Benjamini-Hochberg); see docs/statistics.md.

        Raises:
            RunError: The run folder has none.
        """
        return self._table(model, "comparisons")

    def result(self, model: str, name: str) -> Result:
        """Any result by its name in the run folder's index, such as `silhouette`; those of xmi have methods, too.

        Raises:
            RunError: The study has none of that name.
        """
        found: Result = decode(json.loads(self._result(model, name).read_text(encoding="utf-8")))
        return found

    def answers(self, model: str, cell: str) -> Answers:
        """The answers of one prompting cell on test items, pooled over tasks and seeds."""
        return Answers.load(self._result(model, f"answers.{cell}"))

    def transfer(self, model: str, target: str, split: str = "test") -> Transfer:
        """The layer sweeps into `text` or `image` queries, pooled over tasks and seeds."""
        return Transfer.load(self._result(model, f"transfer.{sweep_name(target, split)}"))

    def phases(self, model: str) -> dict[str, Phases]:
        """Phases by label: each specification pooled over tasks (`text ICL`, ...) and each task apart."""
        names = sorted(name for name in self._index["results"].get(model, ()) if name.startswith("phases."))
        return {p.label: p for p in (self._shared(Phases, model, name) for name in names)}

    def similarity(self, model: str, *, centred: bool = False) -> Similarity:
        """Cosines of the task vectors of all tasks and specifications; groups are the tasks."""
        return self._shared(Similarity, model, "similarity.centred" if centred else "similarity")

    def projection(self, model: str, method: str) -> Projection:
        """PCA or t-SNE of the single-prompt vectors of text ICL and image ICL."""
        return self._shared(Projection, model, f"projection.{method}")

    def silhouette(self, model: str) -> Silhouette:
        """Silhouette by task and by modality of the same vectors."""
        return self._shared(Silhouette, model, "silhouette")

    def boundaries(self, model: str) -> Boundaries:
        """Where the phases give way to each other, per specification, pooled over tasks and seeds."""
        return self._shared(Boundaries, model, "boundaries")

    def alignment(self, model: str) -> Alignment:
        """How far text and image prompts agree on the tasks, per layer."""
        return self._shared(Alignment, model, "alignment")

    def task_words(self, model: str) -> TaskWords:
        """The task words that were found, if the study looked for them."""
        return self._shared(TaskWords, model, "words")

    def ensembling(self, model: str, target: str = "image") -> EnsembleCurve:
        """Accuracy on `image` or `text` queries against the number of text examples, with and without instruction."""
        return self._shared(EnsembleCurve, model, f"ensembling.{target}")

    def overriding(self, model: str) -> Overriding:
        """One task in the prompt, another patched in: who wins, pooled over pairs of tasks that share inputs."""
        return self._shared(Overriding, model, "overriding")

    def base_comparison(self, model: str) -> BaseComparison:
        """What differs between the model and its base LLM."""
        return self._shared(BaseComparison, model, "base_comparison")

    def base_similarity(self, model: str, *, centred: bool = False) -> BaseSimilarity:
        """Cosines between the model's text ICL vectors and its base LLM's."""
        return self._shared(BaseSimilarity, model, "base_similarity.centred" if centred else "base_similarity")

    def vector(self, model: str, task: str, source: str, seed: int | None = None) -> TaskVector:
        """A task vector that was patched in, or read for one that was.

        Args:
            model: Name of the model.
            task: Name of the task.
            source: Specification, ensemble or control.
            seed: Seed of its prompts; by default the first of the plan.

        Raises:
            RunError: The study has none, or its file is missing or damaged.
        """
        from xmi.vector import TaskVector

        drawn = self.study["plan"]["seeds"][0] if seed is None else seed
        wanted = {"model": model, "task": task, "source": source, "seed": drawn}
        for one in self._index.get("vectors", ()):
            if wanted.items() <= one.items():
                path = self.path / one["file"]
                if digest_of(path) != one["digest"]:
                    raise RunError(f"{path} is missing, damaged or another file. {ANEW}")
                return TaskVector.load(path)
        raise RunError(f"{self.path} has no vector of {model}, task {task}, source {source}, seed {drawn}.")

    def records(self) -> Iterator[dict[str, Any]]:
        """Every model answer, in the order of the records file, one after another: they may be more than memory holds.

        Each record has: key, model, seed, task, split, method, source, target, unit, input, answer, prompt
        (a list of segments, each `{"text": ...}` or `{"image": name of a file in images/}`), and for prompts predicted,
        log_probability, rank, paper, strict; for patches the same as lists over layers.
        """
        for _, record in RecordsFile(self.path / RECORDS):
            yield record

    def traffic(self) -> pd.DataFrame:
        """What a study on a host took, by cell in the order of sending.

        Returns:
            Columns cell, requests, up and down (bytes), and seconds from sending to the end; no rows if it ran here.
        """
        folder, rows = self.path / JOBS, []
        if folder.is_dir():
            from xmi.remote import Ledger  # httpx and the like, for this alone

            rows = Ledger(folder).traffic()
        return pd.DataFrame(rows, columns=["cell", "requests", "up", "down", "seconds"])

    def _shared(self, kind: type[R], model: str, name: str) -> R:
        """A result that is read once, however often it is asked for; its arrays, which are shared, are read-only."""
        path = self._result(model, name)
        if not isinstance(found := self._results.get(path), kind):
            found = self._results[path] = kind.load(path)
            for value in vars(found).values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
        return found

    def _result(self, model: str, name: str) -> Path:
        return self._file("results", model, name)

    def _file(self, kind: str, model: str, name: str) -> Path:
        own = self._index[kind].get(model, {})
        if name not in own:
            singular = kind.removesuffix("s")
            raise RunError(f"{self.path} has no {singular} {name} of {model}. It has: {', '.join(own) or 'none'}.")
        path = self.path / str(own[name])
        if not path.is_file():
            raise RunError(f"{path} is gone. {ANEW}")
        return path


def _versions(provenance: Mapping[str, Any], made_with: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The versions that a run's cells were made with, where there were several."""
    known = provenance.get("versions", {})
    told = {}
    for name, begun in known.items():
        counts: Counter[str] = Counter()
        for one in made_with:
            counts[str(one["with"].get(name, begun))] += one["cells"]
        told[name] = begun if len(counts) < 2 else ", ".join(f"{v} ({n} cells)" for v, n in counts.items())
    return {"versions": told}


check_calls(__name__, ["StudyResults"])
