"""Run folders written or changed by hand, sealed as a study seals them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmi.study.folder import FINISHED, FORMAT, STUDY, write_index
from xmi.study.sealed import seal


def content_of(path: Path) -> dict[str, Any]:
    """What a sealed file holds, whatever its seal says."""
    content: dict[str, Any] = json.loads(path.read_bytes())
    content.pop("digest")
    return content


def rewrite(path: Path, **changes: Any) -> None:
    """Changes entries of a sealed file, and seals it again."""
    path.write_bytes(seal({**content_of(path), **changes}, indent=1))


def reseal(folder: Path) -> None:
    """Makes a run's index fit the files as they are now."""
    index = content_of(folder / FINISHED)
    index.pop("format")
    write_index(folder, index.pop("study"), index)


def finish(folder: Path, study: Mapping[str, Any]) -> None:
    """Seals a run folder of which files named `<model>.<name>.<ending>` lie in `tables` and `results`."""
    index: dict[str, Any] = {"made_with": [], "cells": {}, "files": []}
    for kind in ("tables", "results"):
        index[kind] = {model: {} for model in study["models"]}
        for path in sorted((folder / kind).iterdir()):
            for model in study["models"]:
                if path.name.startswith(f"{model}."):
                    index[kind][model][path.stem.removeprefix(f"{model}.")] = f"{kind}/{path.name}"
    index["files"] = ["records.jsonl", *(f"images/{path.name}" for path in sorted((folder / "images").iterdir()))]
    (folder / STUDY).write_bytes(seal({"format": FORMAT, "identity": {}, **study}, indent=1))
    write_index(folder, {}, index)
