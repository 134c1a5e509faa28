"""A run folder on disk: atomic writes, finished cells, and the refusal of another plan.

`study.json` says what was asked and how it was done; `cells/` holds one JSON per finished cell, written whole or not at
all, from which a killed run continues; `records.jsonl` has one line per model answer; `vectors/` the task vectors;
`images/` what the prompts show; `tables/` and `results/` are assembled when every cell is there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from xmi.errors import RunError
from xmi.lens import TunedLens
from xmi.measure.result import decode, encode
from xmi.storage import pack_tensors, read_tensors, reading, remove_unfinished, write_file
from xmi.study.cell import Cell, CellResult, slug
from xmi.study.plan import Plan
from xmi.vector import TaskVector

FORMAT = 2
"""How run folders are laid out; those of other versions are not continued."""

FOLDERS = ("cells", "vectors", "images", "tables", "results", "jobs")
"""The folders below a run folder."""


class Store:
    """The files of one run.

    Attributes:
        path: The run folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Points at a folder; nothing is written yet."""
        self.path = Path(path)

    def open(self, plan: Plan) -> None:
        """Makes the folder, or continues a run of the same plan.

        Raises:
            RunError: The folder cannot be written, or holds a run of another plan.
        """
        try:
            for name in FOLDERS[:3]:
                (self.path / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RunError(
                f"Cannot write to the run folder {self.path}: {error.strerror}. Choose another with --out."
            ) from error
        stored = self._plan()
        if stored is None:
            return
        if (found := json.loads((self.path / "study.json").read_text(encoding="utf-8")).get("format")) != FORMAT:
            raise RunError(
                f"{self.path} holds a run in format {found}; this version of xmi writes {FORMAT}. Finish it with the "
                "version that began it, or choose another folder with --out."
            )
        if changed := plan.differences(stored):
            listing = "\n".join(f"  {line}" for line in changed)
            raise RunError(
                f"{self.path} holds a run of another plan:\n{listing}\n"
                "Choose another folder with --out, or start another run beside it with --fork."
            )

    def differs(self, plan: Plan) -> bool:
        """Returns whether the folder holds a run of another plan.

        Raises:
            RunError: What it holds cannot be read as a plan.
        """
        stored = self._plan()
        return stored is not None and bool(plan.differences(stored))

    def _plan(self) -> Plan | None:
        study = self.path / "study.json"
        if not study.is_file():
            return None
        try:
            return Plan.model_validate(json.loads(study.read_text(encoding="utf-8"))["plan"])
        except (ValidationError, KeyError, json.JSONDecodeError) as error:
            raise RunError(f"{study} cannot be read as a plan: {error}. Choose another folder with --out.") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder; the system lets go of the lock if this one dies.

        Raises:
            RunError: Another process is at work there.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise RunError(
                f"Another process is at work in {self.path}. Wait for it, or choose another folder with --out."
            ) from error

    def tidy(self) -> None:
        """Removes what processes that were killed did not write to the end; only for who holds the lock."""
        remove_unfinished(self.path, *(self.path / name for name in FOLDERS))

    def begin(self, plan: Plan, models: dict[str, dict[str, Any]], provenance: dict[str, Any]) -> None:
        """Writes `study.json`, or checks that a continued run meets the same models.

        Raises:
            RunError: A model has changed since the run was begun.
        """
        study = self.path / "study.json"
        if study.is_file():
            stored = json.loads(study.read_text(encoding="utf-8"))["provenance"]
            for kind, now in (("model", models), ("task", provenance["tasks"])):
                for name, facts in now.items():
                    before = stored[f"{kind}s"].get(name)
                    if before != facts:
                        raise RunError(
                            f"The {kind} {name} is not the one {self.path} was begun with: {before} -> {facts}. "
                            "Choose another folder with --out, or delete it."
                        )
            return
        names = [name for name in models if not name.endswith(" base LLM")]
        content = {
            "format": FORMAT,
            "plan": plan.model_dump(mode="json"),
            "models": names,
            "provenance": {"models": models, **provenance},
        }
        self.write("study.json", json.dumps(content, indent=1))

    def has(self, cell: Cell) -> bool:
        """Returns whether a cell is finished."""
        return (self.path / "cells" / f"{cell.key}.json").is_file()

    def put(self, cell: Cell, result: CellResult) -> None:
        """Stores a cell: vectors, images, points and records first, the cell's own file last."""
        for (task, source), vector in result.vectors.items():
            self.write(f"vectors/{self.vector_path(replace(cell, task=task), source).name}", vector.dumps())
        for name, content in result.images.items():
            if not (self.path / "images" / name).is_file():
                self.write(f"images/{name}", content)
        if result.points:
            points = {modality: residuals.values for modality, residuals in result.points.items()}
            self.write(f"cells/{cell.key}.safetensors", pack_tensors(points))
        if result.lens is not None:
            self.write(f"cells/{cell.key}.safetensors", result.lens.dumps())
        measured = {
            "answers": result.answers, "transfers": result.transfers, "phases": result.phases, "result": result.result,
        }  # fmt: skip
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in result.records)
        if lines:
            self.write(f"cells/{cell.key}.records.jsonl", lines)
        self.write(f"cells/{cell.key}.json", json.dumps(encode(measured)))

    def get(self, cell: Cell) -> dict[str, Any]:
        """Reads a finished cell: `answers`, `transfers`, `phases`, `result`, `points`."""
        content = json.loads((self.path / "cells" / f"{cell.key}.json").read_text(encoding="utf-8"))
        stored = self.path / "cells" / f"{cell.key}.safetensors"
        points: dict[str, Any] = {}
        if cell.kind == "read" and stored.is_file():
            with reading(stored, "residuals", error=RunError):
                points, _ = read_tensors(stored, framework="np")
        return {**decode(content), "points": points}

    def records(self, cell: Cell) -> str:
        """Reads the model's answers in a finished cell, one line of JSON each."""
        stored = self.path / "cells" / f"{cell.key}.records.jsonl"
        return stored.read_text(encoding="utf-8") if stored.is_file() else ""

    def lens(self, cell: Cell) -> TunedLens:
        """Reads the lens that a cell trained."""
        return TunedLens.load(self.path / "cells" / f"{cell.key}.safetensors")

    def vectors(self, cell: Cell, sources: Iterable[str]) -> dict[str, TaskVector]:
        """Reads those of a cell's vectors that it has."""
        paths = {source: self.vector_path(cell, source) for source in sources}
        return {source: TaskVector.load(path) for source, path in paths.items() if path.is_file()}

    def vector_path(self, cell: Cell, source: str) -> Path:
        """Returns where a cell's vector is stored."""
        return self.path / "vectors" / f"{cell.model}.{cell.seed}.{slug(cell.task)}.{slug(source)}.safetensors"

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file whole or not at all.

        Raises:
            RunError: It cannot be written.
        """
        advice = "What was finished is kept; free room and run again."
        return write_file(self.path / name, content, error=RunError, advice=advice)
