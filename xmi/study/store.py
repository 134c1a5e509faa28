"""A run folder on disk: atomic writes, cells that say what they are, and the refusal of another study.

`study.json` says what was asked and how it was done; `cells/` holds one JSON per finished cell, written last and whole
or not at all, from which a killed run continues; `records.jsonl` has one line per model answer; `vectors/` the task
vectors; `images/` what the prompts show; `tables/` and `results/` are assembled when every cell is there.

Nothing is believed for its name. A cell's file states its cell, its study (the `Identity`), the cells that it was made
from and the digest of every file that belongs to it, and seals all of it with a digest of its own; the index of the
tables and results does the same. What does not fit is computed again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from xmi.errors import RunError
from xmi.measure.result import decode, encode
from xmi.storage import remove_unfinished, write_file
from xmi.study.cell import CellResult
from xmi.study.folder import FORMAT, JOBS, STUDY, read_index, read_study, write_index
from xmi.study.grid import Cell, slug
from xmi.study.identity import Identity
from xmi.study.plan import Plan
from xmi.study.sealed import digest_of, seal, seal_of, unseal
from xmi.vector import TaskVector

FOLDERS = ("cells", "vectors", "images", "tables", "results", JOBS)
"""What a run folder holds."""

MISSING = "is not there yet"
"""How the reason ends why a cell that was never computed cannot be read."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder; the system lets go of the lock if this one dies.

    Raises:
        RunError: Another process is at work there.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RunError(
            f"Another process is at work in {folder}. Wait for it, or choose another folder with --out."
        ) from error


@dataclass(frozen=True)
class Store:
    """The files of one run.

    Attributes:
        path: The run folder.
        plan: The plan.
        identity: What the run is of.
    """

    path: Path
    plan: Plan
    identity: Identity

    def open(self) -> None:
        """Makes the folder, or continues a run of the same study.

        Raises:
            RunError: The folder cannot be written, or holds a run of another study, or one that cannot be read.
        """
        self.check()
        try:
            for name in FOLDERS[:3]:
                (self.path / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RunError(
                f"Cannot write to the run folder {self.path}: {error.strerror}. Choose another with --out."
            ) from error

    def check(self) -> None:
        """Refuses a folder that holds a run of another study; nothing is written.

        Raises:
            RunError: It does, or holds one that cannot be read.
        """
        if changed := self.changes():
            listing = "\n".join(f"  {line}" for line in changed)
            what = f"{self.path / STUDY} is" if self.begun else f"{self.path} holds cells"
            raise RunError(
                f"{what} of another study than the one asked for:\n{listing}\n"
                "Choose another folder with --out, or start another run next to it with --fork."
            )

    def changes(self) -> list[str]:
        """What differs between the study that the folder holds and this one, a line each; none if it holds none.

        Raises:
            RunError: What it holds cannot be read.
        """
        if not self.begun:
            return self._strangers()
        file = self.path / STUDY
        stored = read_study(self.path)
        try:
            plan = Plan.model_validate(stored["plan"])
        except ValidationError as error:
            raise RunError(f"{file} cannot be read as a plan: {error}. Choose another folder with --out.") from error
        return self.plan.differences(plan) + self.identity.differences(stored["identity"])

    def _strangers(self) -> list[str]:
        """Whole cells of another study, in a folder that does not say what study it is of."""
        for path in sorted(self.path.glob("cells/*.json")):
            try:
                study = unseal(path.read_bytes())["study"]
            except (OSError, ValueError, RecursionError, LookupError, TypeError):
                continue
            if not self.identity.fits(study):
                return self.identity.differences(study) or [f"the plan of {path}"]
        return []

    def tidy(self) -> None:
        """Removes what processes that were killed did not write to the end; only for who holds the lock.

        Nothing is removed from a folder that is not known as a run yet, nor anything that others put into one.
        """
        if self.begun:
            remove_unfinished(self.path, *(self.path / name for name in FOLDERS))

    def begun_with(self) -> dict[str, str]:
        """The versions that the run was started with."""
        return dict(read_study(self.path)["provenance"]["versions"])

    @property
    def begun(self) -> bool:
        """Whether the folder says what it is a run of."""
        return (self.path / STUDY).is_file()

    def begin(self, models: dict[str, dict[str, Any]], provenance: dict[str, Any]) -> None:
        """Writes `study.json`, or checks that a continued run meets the same models.

        Args:
            models: Facts of every model by its name, its role among them.
            provenance: What else is worth knowing.

        Raises:
            RunError: A model has changed since the run was begun.
        """
        if self.begun:
            stored = read_study(self.path)["provenance"]["models"]
            for name, facts in models.items():
                before = stored.get(name)
                if before != facts:
                    raise RunError(
                        f"The model {name} is not the one {self.path} was started with: {before} -> {facts}. "
                        "Choose another folder with --out."
                    )
            return
        content = {
            "format": FORMAT,
            "plan": self.plan.model_dump(mode="json"),
            "identity": asdict(self.identity),
            "models": [name for name, facts in models.items() if facts["role"] != "base"],
            "provenance": {"models": models, **provenance},
        }
        self.write(STUDY, seal(content, indent=1))

    def lacks(self, cell: Cell, needs: Collection[Cell]) -> str:
        """Why a cell has to be computed: what is missing or does not fit; empty if it is finished.

        Args:
            cell: The cell.
            needs: The cells whose results it takes.
        """
        try:
            stored = self.get(cell)
            if stored.head["needs"] != self._seals(needs):
                return f"{self._file(cell)} was made from other results"
            for name in stored.head["files"]:
                stored.file(name)
        except RunError as error:
            return str(error)
        return ""

    def pack(
        self, cell: Cell, result: CellResult, needs: Collection[Cell], made_with: Mapping[str, str]
    ) -> dict[str, bytes]:
        """The files of a cell: vectors, images, tensors and records first, the cell's own file last.

        Args:
            cell: The cell.
            result: What was measured.
            needs: The cells whose results it took.
            made_with: Versions of what numbers depend on, precision and device.
        """
        files: dict[str, bytes] = {}
        parts: dict[str, Any] = {"vectors": []}

        def keep(name: str, content: bytes) -> str:
            files[name] = content
            return name

        for (task, source), vector in result.vectors.items():
            stem = f"{slug(cell.model, '.')}.{cell.seed}.{slug(task)}.{slug(source)}"
            file = keep(f"vectors/{stem}.safetensors", vector.dumps())
            parts["vectors"].append({"task": task, "source": source, "file": file})
        for name, content in result.images.items():
            keep(f"images/{name}", content)
        if result.part is not None:
            name, content = result.part
            parts[name] = keep(f"cells/{cell.key}.safetensors", content)
        if result.records:
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in result.records)
            parts["records"] = keep(f"cells/{cell.key}.records.jsonl", lines.encode())
        head = {
            "format": FORMAT,
            "cell": asdict(cell),
            "study": asdict(self.identity),
            "made_with": dict(made_with),
            "needs": self._seals(needs),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            "parts": parts,
        }
        measured = {
            "answers": result.answers, "transfers": result.transfers, "phases": result.phases, "result": result.result,
        }  # fmt: skip
        return {**files, self._name(cell): seal({**head, "measured": encode(measured)})}

    def put(self, files: Mapping[str, bytes]) -> None:
        """Stores a cell, as `pack` gives it.

        Raises:
            RunError: It cannot be written.
        """
        for name, content in files.items():
            if digest_of(self.path / name) != hashlib.sha256(content).hexdigest():  # images are shared by cells
                self.write(name, content)

    def parcel(self, cell: Cell) -> dict[str, bytes]:
        """The files of a finished cell that others take: vectors, tensors and its own.

        Raises:
            RunError: One is missing or damaged.
        """
        stored = self.get(cell)
        parts = {name: file for name, file in stored.head["parts"].items() if name not in ("vectors", "records")}
        names = [*(vector["file"] for vector in stored.head["parts"]["vectors"]), *parts.values()]
        return {name: stored.file(name).read_bytes() for name in names} | {
            self._name(cell): self._file(cell).read_bytes()
        }

    def get(self, cell: Cell) -> Stored:
        """A finished cell.

        Raises:
            RunError: Its file is missing, damaged, or of another cell or study.
        """
        file = self._file(cell)
        try:
            head = unseal(file.read_bytes())
        except FileNotFoundError as error:
            raise RunError(f"{file} {MISSING}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{file} cannot be used: {error}") from error
        if (
            head.get("format") != FORMAT
            or head.get("cell") != asdict(cell)
            or not self.identity.fits(head.get("study"))
        ):
            raise RunError(f"{file} is of another cell or study: {head.get('cell')}")
        return Stored(self.path, head)

    def write_index(self, index: Mapping[str, Any], cells: Collection[Cell]) -> None:
        """Writes what was assembled from all cells: the last file of a run.

        Args:
            index: Paths of tables and results by model and name, and of the files that belong to no model.
            cells: What they were assembled from.
        """
        write_index(self.path, asdict(self.identity), {**index, "cells": self._seals(cells)})

    def assembled(self, cells: Collection[Cell]) -> bool:
        """Whether tables and results are there, whole, and made from the cells as they are now."""
        try:
            index = read_index(self.path)
        except RunError:
            return False
        return self.identity.fits(index["study"]) and index["cells"] == self._seals(cells)

    def _name(self, cell: Cell) -> str:
        return f"cells/{cell.key}.json"

    def _file(self, cell: Cell) -> Path:
        return self.path / self._name(cell)

    def _seals(self, cells: Collection[Cell]) -> dict[str, str]:
        return {cell.key: seal_of(self._file(cell)) for cell in cells}

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file whole or not at all.

        Raises:
            RunError: It cannot be written.
        """
        advice = "What was finished is kept; free room and run again."
        return write_file(self.path / name, content, error=RunError, advice=advice)


@dataclass(frozen=True)
class Stored:
    """A finished cell, whose own file is whole; the files that belong to it are checked when they are read.

    Attributes:
        folder: The run folder.
        head: What its file holds.
    """

    folder: Path
    head: Mapping[str, Any]

    @property
    def measured(self) -> dict[str, Any]:
        """`answers`, `transfers`, `phases` and `result`."""
        found: dict[str, Any] = decode(self.head["measured"])
        return found

    def part(self, name: str) -> Path:
        """The safetensors file that it keeps under a name.

        Raises:
            RunError: It is missing or damaged.
        """
        return self.file(self.head["parts"][name])

    @property
    def records(self) -> str:
        """The model's answers, one line of JSON each."""
        name = self.head["parts"].get("records")
        return self.file(name).read_bytes().decode() if name else ""

    def vectors(self) -> dict[tuple[str, str], TaskVector]:
        """Task vectors by task (as the plan names it) and source."""
        return {(v["task"], v["source"]): TaskVector.load(self.file(v["file"])) for v in self.head["parts"]["vectors"]}

    def digest(self, name: str) -> str:
        """What the digest of a file of the cell has to be."""
        return str(self.head["files"][name])

    def file(self, name: str) -> Path:
        """A file of the cell.

        Raises:
            RunError: It is missing or damaged.
        """
        path = self.folder / name
        if digest_of(path) != self.digest(name):
            raise RunError(f"{path} is missing, damaged or another file")
        return path
