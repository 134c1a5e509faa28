"""Damages every file of a run folder in turn, and runs the same study again: nothing damaged may be used.

Usage: `python -m tests.study.damage`, with `--files 20` for a sample. For a finished and for an unfinished run each
file is emptied, cut in half, changed in one bit, or replaced by a sibling: another file of its kind, of the same run
or, if there is none, of another one. The study must then end with the very files of the undamaged run, or with one
XmiError that names the file; and the damaged folder must be read rightly or refused in the same way.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import xmi
from tests.study.kill import files
from tests.zoo.world import make_world
from xmi.study import StudyResults, work

SMALL: dict[str, object] = {
    "base": None, "seeds": (0,), "sources": ("text ICL", "instruction", "text ICL + instruction"), "points": 3,
    "controls": ("another task",), "experiments": (), "shots": 2, "prompts": 3, "layers": (1, 2), "whole": False,
    "targets": ("text",), "workers": 1,
}  # fmt: skip
"""A study of a second or two."""

RICH = SMALL | {"sources": ("text ICL", "image ICL", "base LLM text ICL"), "targets": ("image",), "lens": "tuned"}
"""One that stores everything there is: images, a lens, vectors of a base LLM."""

HARMS = ("emptied", "halved", "bit flipped", "sibling swapped in")


def study(world: Path, out: Path, **changes: object) -> StudyResults:
    """A small study of the tiny model."""
    tasks = [str(world / f"{name}.json") for name in ("capital", "name")]
    options = SMALL | changes
    if any(name.startswith("base LLM") for name in options["sources"]):  # type: ignore[attr-defined]
        options["base"] = world / "base"
    return xmi.run(world / "eye", out=out, tasks=tasks, **options)


@contextmanager
def loaded_once() -> Iterator[None]:
    """Keeps the tiny models in memory: loading them takes longer than the study."""
    before, work.load = work.load, cache(work.load)
    try:
        yield
    finally:
        work.load = before


def unfinished(folder: Path, out: Path) -> Path:
    """A copy of a finished run as a kill would leave it: two cells are lacking, and all that is made from cells."""
    shutil.copytree(folder, out)
    for name in ("results", "tables"):
        shutil.rmtree(out / name)
    (out / "records.jsonl").unlink()
    for kind in ("geometry", "ask"):
        next((out / "cells").glob(f"*.{kind}.json")).unlink()
    return out


def harm(path: Path, how: str, other: Path) -> bool:
    """Damages a file; returns whether there was a way to.

    Args:
        path: The file.
        how: One of `HARMS`.
        other: Another run, whose file of this name may be swapped in.
    """
    content = path.read_bytes()
    if how == "emptied":
        harmed = b""
    elif how == "halved":
        harmed = content[: len(content) // 2]
    elif how == "bit flipped":
        place = random.Random(path.name).randrange(len(content)) if content else 0
        harmed = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :] if content else content
    else:
        kind = "".join(path.suffixes[-2:]) if path.parent.name == "cells" else path.suffix
        mates = [p for p in sorted(path.parent.glob(f"*{kind}")) if path.parent.name not in (".", other.name)]
        near = [p.read_bytes() for p in [*mates, *other.rglob(path.name)]]
        harmed = next((c for c in near if c != content), content)
    path.write_bytes(harmed)
    return harmed != content


def verdict(again: Callable[[], object], folder: Path, name: str, expected: dict[str, bytes] | None) -> str:
    """What becomes of a damaged run: `byte-equal`, `named`, or what is wrong."""
    try:
        again()
    except xmi.XmiError as error:
        return "named" if name in str(error) else f"WRONG: an error that does not name it: {error}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"
    if expected is None:
        return "read"
    found = files(folder)
    wrong = [n for n in {*found, *expected} if found.get(n) != expected.get(n)]
    return f"WRONG: {', '.join(wrong[:3])} differ" if wrong else "byte-equal"


def trials(root: Path, world: Path, names: Callable[[list[str]], list[str]]) -> Iterator[tuple[str, str, str, str]]:
    """Damages, runs again, compares.

    Args:
        root: An empty folder to work in.
        world: Models and tasks.
        names: Chooses among the names of files.

    Yields:
        Which run, which file, which harm, and the verdict.
    """
    whole, other = (
        study(world, root / "whole", **RICH).path,
        study(world, root / "other", **RICH | {"seeds": (1,)}).path,
    )
    expected = files(whole)
    begun = unfinished(whole, root / "begun")
    for run in (whole, begun):
        for name in names(sorted(files(run) | {"study.json": b""})):
            for how in HARMS:
                if name == ".lock":
                    continue
                out = root / "damaged"
                shutil.rmtree(out, ignore_errors=True)
                shutil.copytree(run, out)
                if not harm(out / name, how, other):
                    continue
                if run == whole:
                    found = verdict(lambda: StudyResults(out), out, name, None)  # noqa: B023 (called at once)
                    listed = name.startswith(("results", "tables", "images", "records", "study"))
                    if found != ("named" if listed else "read"):
                        yield "read", name, how, f"WRONG: {found}"
                yield run.name, name, how, verdict(lambda: study(world, out, **RICH), out, name, expected)  # noqa: B023


def main() -> None:
    """Prints a summary, and every trial that went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=0, help="so many files of each run, drawn at random (all)")
    asked = parser.parse_args()

    def chosen(names: list[str]) -> list[str]:
        return random.Random(0).sample(names, asked.files) if asked.files else names

    counts: Counter[tuple[str, str, str]] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, loaded_once():
        world = make_world(Path(folder) / "world")
        for run, name, how, found in trials(Path(folder), world, chosen):
            counts[run, how, found if not found.startswith("WRONG") else "WRONG"] += 1
            if found.startswith("WRONG"):
                wrong += 1
                print(f"{run}: {name} {how}: {found}", flush=True)
    for (run, how, found), count in sorted(counts.items()):
        print(f"{run:>6}, {how:<18} {count:>4} {found}")
    print(f"{sum(counts.values())} trials, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
