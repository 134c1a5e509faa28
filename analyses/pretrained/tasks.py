"""The tasks: every entity has one picture and stands in one split of all of them."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analyses.pretrained.captions import a
from analyses.pretrained.pictures import entities

TEST, VALIDATION = 0.22, 0.12
"""Shares of the entities. A test entity is never an example of any task, nor is it in any vector."""
SIDE = 160
"""Pixels of a picture."""


def specs() -> list[dict[str, Any]]:
    """Returns the entries of data/tasks.toml."""
    text = (Path(__file__).parent / "data" / "tasks.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)["task"]
    return found


def splits() -> dict[str, str]:
    """The split of every entity, by the rank of a hash of its name."""
    ranked = sorted((row["name"] for row in entities()), key=lambda name: hashlib.sha256(name.encode()).digest())
    test, held = round(TEST * len(ranked)), round((TEST + VALIDATION) * len(ranked))
    return {name: "test" if i < test else "validation" if i < held else "train" for i, name in enumerate(ranked)}


def label(form: str, row: dict[str, str]) -> str:
    """An entity's label, empty where it has none."""
    name = row["name"]
    living = "yes" if row["kind"] in ("animal", "plant") else "" if row["kind"] in EATEN else "no"
    if form.startswith("["):
        found = {**row, "living": living}[form.strip("[]")]
        return "" if found == name else found
    if (form == "{name}'s" and name.endswith("s")) or (form == "{a name}" and not row["plural"]):
        return ""
    return form.format(**{"name": name, "NAME": name.upper(), "Name": name.capitalize(), "N": name[0].upper(),
                          "a name": a(name)})  # fmt: skip


EATEN = ("fruit", "vegetable", "food", "drink")


def items(spec: dict[str, Any]) -> dict[str, str]:
    """The label of every entity that a task has, by name."""
    found = {row["name"]: label(spec["label"], row) for row in entities()}
    counts = Counter(found.values())
    return {name: told for name, told in found.items() if told and counts[told] >= spec.get("least", 1)}


KEPT = (
    "plural", "uppercase", "capitalize", "first-letter", "article", "possessive", "twice", "category", "living",
)  # fmt: skip
"""The tasks that `screen` keeps."""


def write(drawn: dict[int, np.ndarray] | None, out: Path, names: tuple[str, ...] = KEPT) -> list[Path]:
    """Writes tasks and the pictures of their entities.

    Args:
        drawn: A picture of each entity, by its number, uint8 [height, width, 3]; None for tasks of text alone.
        out: The folder.
        names: Which tasks.

    Returns:
        The files of the tasks.
    """
    split, shown = splits(), {row["name"]: f"images/{row['name'].replace(' ', '-')}.webp" for row in entities()}
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(entities() if drawn else ()):
        picture = Image.fromarray(drawn[number]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(out / shown[row["name"]], quality=90)
    files = []
    for spec in specs():
        if spec["name"] in names:
            rows = [
                {"input": name, "output": told, **({"image": shown[name]} if drawn else {}), "split": split[name]}
                for name, told in items(spec).items()
            ]
            kept = {key: spec[key] for key in ("name", "instruction", "paraphrases", "task_words", "note")}
            files.append(out / f"{spec['name']}.json")
            lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows)
            head = json.dumps(kept, indent=2, ensure_ascii=False).removesuffix("\n}")
            files[-1].write_text(f'{head},\n  "items": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    return files
