"""Which tasks the language model can do at all: asked in text, before any picture is seen.

    python -m analyses.pretrained.screen        # prints the table, which stands in docs/pretrained.md

A task is kept if five text examples get at least 40 % of validation items wholly right, and if it has at least 120
entities. Neither pictures nor patches nor test items take part in the choice.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import xmi
from analyses.pretrained import tasks

LEAST_RIGHT, LEAST_ENTITIES = 0.4, 120
TOKENS = 8
"""As many as are read of an answer: no label is longer."""


def screen(model: str, folder: Path, dtype: str = "bfloat16") -> list[tuple[str, str, int, float, bool]]:
    """Asks a language model for every task.

    Args:
        model: What `xmi.load` takes.
        folder: Where the tasks are written, without pictures.
        dtype: Precision.

    Returns:
        For each task: name, family, entities, share of validation items that are wholly right, and whether it is kept.
    """
    llm = xmi.load(model, dtype=dtype)
    families = {spec["name"]: spec["family"] for spec in tasks.specs()}
    rows = []
    for file in tasks.write(None, folder, names=tuple(families)):
        task = xmi.task(file)
        answers = llm.answers(task.icl("text", split="validation", n=None), max_new_tokens=TOKENS)
        right = answers.accuracy("whole").mean
        kept = right >= LEAST_RIGHT and len(task.items) >= LEAST_ENTITIES
        rows.append((task.name, families[task.name], len(task.items), right, kept))
    return rows


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m analyses.pretrained.screen", description=(__doc__ or "")[:88])
    parser.add_argument("--model", default="pretrained-llm", help="the language model")
    parser.add_argument("--dtype", default="bfloat16", help="its precision")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = screen(args.model, Path(folder), args.dtype)
    print("| task | family | entities | right in text | kept |\n| --- | --- | ---: | ---: | --- |")
    for name, family, n, right, kept in rows:
        print(f"| {name} | {family} | {n} | {right:.2f} | {'yes' if kept else 'no'} |")


if __name__ == "__main__":
    main()
