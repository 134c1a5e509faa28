"""A run folder on disk: atomic writes, finished cells, and the refusal of another plan.

`study.json` says what was asked and how it was done; `cells/` holds one JSON per finished cell, written whole or not at
all, from which a killed run continues; `records.jsonl` has one line per model answer; `vectors/` the task vectors;
`images/` what the prompts show; `tables/` and `results/` are assembled when every cell is there.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from xmi.errors import RunError
from xmi.measure.result import decode, encode
from xmi.study.cell import Cell, CellResult, slug
from xmi.study.plan import Plan


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
            for name in ("cells", "vectors", "images"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RunError(
                f"Cannot write to the run folder {self.path}: {error.strerror}. Choose another with --out."
            ) from error
        study = self.path / "study.json"
        if not study.is_file():
            return
        try:
            stored = Plan.model_validate(json.loads(study.read_text(encoding="utf-8"))["plan"])
        except (ValidationError, KeyError, json.JSONDecodeError) as error:
            raise RunError(f"{study} cannot be read as a plan: {error}. Choose another folder with --out.") from error
        changed = plan.differences(stored)
        if changed:
            listing = "\n".join(f"  {line}" for line in changed)
            raise RunError(
                f"{self.path} holds a run of another plan:\n{listing}\nChoose another folder with --out, or delete it."
            )

    def begin(self, plan: Plan, models: dict[str, dict[str, Any]], provenance: dict[str, Any]) -> None:
        """Writes `study.json`, or checks that a continued run meets the same models.

        Raises:
            RunError: A model has changed since the run was begun.
        """
        study = self.path / "study.json"
        if study.is_file():
            stored = json.loads(study.read_text(encoding="utf-8"))["provenance"]["models"]
            for name, facts in models.items():
                if stored.get(name) != facts:
                    raise RunError(
                        f"The model {name} is not the one {self.path} was begun with: {stored.get(name)} -> {facts}. "
                        "Choose another folder with --out, or delete it."
                    )
            return
        names = [name for name in models if not name.endswith(" base LLM")]
        content = {
            "format": 1,
            "plan": plan.model_dump(mode="json"),
            "models": names,
            "provenance": {"models": models, **provenance},
        }
        self.write("study.json", json.dumps(content, indent=1))

    def has(self, cell: Cell) -> bool:
        """Returns whether a cell is finished."""
        return (self.path / "cells" / f"{cell.key}.json").is_file()

    def put(self, cell: Cell, result: CellResult) -> None:
        """Stores a cell: vectors, images and points first, the cell's own file last."""
        for source, vector in result.vectors.items():
            final = self.path / "vectors" / f"{cell.key}.{slug(source)}.safetensors"
            temporary = final.with_suffix(".tmp")
            vector.save(temporary)
            temporary.replace(final)
        for name, content in result.images.items():
            if not (self.path / "images" / name).is_file():
                self.write(f"images/{name}", content)
        points = {modality: np.ascontiguousarray(r.values.numpy()) for modality, r in result.points.items()}
        temporary = self.path / "cells" / f"{cell.key}.points.tmp"
        save_file(points, temporary)
        temporary.replace(temporary.with_suffix(".safetensors"))
        measured = {"answers": result.answers, "transfers": result.transfers, "phases": result.phases}
        self.write(f"cells/{cell.key}.json", json.dumps({**encode(measured), "records": result.records}))

    def get(self, cell: Cell) -> dict[str, Any]:
        """Reads a finished cell: `answers`, `transfers`, `phases`, `records`, `points`."""
        content = json.loads((self.path / "cells" / f"{cell.key}.json").read_text(encoding="utf-8"))
        records = content.pop("records")
        points = load_file(self.path / "cells" / f"{cell.key}.points.safetensors")
        return {**decode(content), "records": records, "points": points}

    def vector_path(self, cell: Cell, source: str) -> Path:
        """Returns where a cell's vector is stored."""
        return self.path / "vectors" / f"{cell.key}.{slug(source)}.safetensors"

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file whole or not at all.

        Raises:
            RunError: It cannot be written.
        """
        target = self.path / name
        data = content.encode("utf-8") if isinstance(content, str) else content
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.tmp")
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except OSError as error:
            raise RunError(
                f"Cannot write {target}: {error.strerror}. What was finished is kept; free room and run again."
            ) from error
        return target
