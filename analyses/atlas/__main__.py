"""Studies small models here and lays them out on one page: ``python -m analyses.atlas --out runs/atlas``.

The embedded model stands beside its control and itself untrained, and beside small models of other architectures with
random weights (`shapes.py`). The plan is small: ten prompts for each task vector, and one control. The same command
continues what was interrupted, and computes nothing of a finished run again; a folder that holds a run of another plan
is refused. Runs of your own are added by ``--also``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmi.measure.summaries import row_of
from xmi.names import IMAGE_ICL, TEXT_ICL
from xmi.numerals import estimate
from xmi.report import atlas_page
from xmi.studies import failures, run_each
from xmi.study import StudyResults
from xmi.terminal import put, put_table, quiet_libraries, say

PLAN = {"prompts": 10, "points": 10, "controls": ["random vector"], "experiments": [], "whole": False}
EMBEDDED = {"model": "organism", "base": "organism-llm", "control": "organism-control", "untrained": True}
SEEDS, OUT = 3, Path("runs/atlas")


def studies(models: Sequence[str], out: Path, **plan: Any) -> list[dict[str, Any]]:
    """The arguments of `xmi.run` for every model; shapes are made where they are not there yet."""
    from analyses.atlas.shapes import folder_of  # transformers, which must have been told to be quiet

    given = {
        name: EMBEDDED if name == EMBEDDED["model"] else {"model": str(folder_of(name, out / "models"))}
        for name in models
    }
    return [{**own, "out": str(out / name), **PLAN, **plan} for name, own in given.items()]


def line(results: StudyResults, model: str) -> tuple[str, ...]:
    """What is printed of a model: what it is, and whether examples and their vectors do the task on images."""
    table = results.summary(model)
    rows = [row_of(table, *way, "image") for way in (("prompt", IMAGE_ICL), ("patch", TEXT_ICL))]
    shown = [estimate(row["accuracy"], row["low"], row["high"]) if row else "-" for row in rows]
    layers = results.study["provenance"]["models"][model]["layers"]
    return model, str(layers), str(len(results.study["plan"]["seeds"])), *shown


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not finished, writes the page, and prints a line for each model."""
    quiet_libraries()
    from analyses.atlas.shapes import SHAPES

    known = [EMBEDDED["model"], *SHAPES]
    parser = argparse.ArgumentParser(prog="python -m analyses.atlas", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=known, default=known, help="by default all")
    parser.add_argument("--tasks", nargs="+", default=[], help="by default the six of xmi")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"drawings of prompts ({SEEDS})")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the models, runs and the page ({OUT})")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="folders of further finished runs")
    asked = parser.parse_args(argv)
    start, cpu = time.perf_counter(), time.process_time()
    wanted = studies(asked.models, asked.out, tasks=asked.tasks, seeds=range(asked.seeds))
    several = run_each(wanted, lambda text: say(f"{time.perf_counter() - start:6.0f} s  {text}"))
    runs = [*(results.path for results in several.finished), *asked.also]
    if not runs:
        raise SystemExit("\n".join(failures(several)))
    page = atlas_page(runs, asked.out / "atlas.html")
    rows = [line(results, model) for results in map(StudyResults, runs) for model in results.models]
    head = ["model", "layers", "seeds", "image examples in the prompt", "text vector patched in"]
    put_table("Accuracy on image queries, mean over tasks [95 % interval]", head, rows)
    took = f"{time.perf_counter() - start:.0f} s ({time.process_time() - cpu:.0f} s of this process)"
    say(f"{took}; {page.stat().st_size / 1e6:.1f} MB. The page:")
    put(page.resolve())
    if several.failed:
        raise SystemExit("\n".join(["Models that could not be studied:", *failures(several)]))


if __name__ == "__main__":
    main()
