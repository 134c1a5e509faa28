"""What the report of a large study costs: bytes, seconds and memory.

Run folders of random studies are made (`analyses.benchmarks.random_study`); report and similarity page are then
written, each by a process of its own: on Linux a process begins with the peak memory of the one that started it.
Usage::

    python -m analyses.benchmarks.report_scale                      # the sizes below; writes docs/report_scale.md
    python -m analyses.benchmarks.report_scale --tasks 5 --layers 8 # one size; the last line is a JSON object
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PAGE = Path("docs/report_scale.md")
SIZES = ((20, 64, 1), (20, 8, 7))
"""Tasks, layers and seeds: a deep model with many tasks; and many seeds, which make 140,000 records."""
AIMS = (("report_bytes", 8e6, "a report under 8 MB"), ("cpu_seconds", 5, "5 s"), ("peak_rss_bytes", 600e6, "600 MB"))
"""What no size should exceed, and how the page says it."""


def measure(folder: Path) -> dict[str, Any]:
    """Writes both pages of a run folder, and says what they took."""
    from xmi.report import answers, page, render, similarity_page
    from xmi.study.results import StudyResults

    made: list[str] = []
    template, within = page.template, answers.Blocks.within

    def counted(name: str) -> Any:
        made.append(name)
        return template(name)

    def watched(self: answers.Blocks, *given: Any) -> answers.Packed:
        kept = within(self, *given)
        shown.update(shown=kept.shown, records=kept.total)
        return kept

    shown: dict[str, int] = {}
    page.template, answers.Blocks.within = counted, watched  # type: ignore[assignment, method-assign]
    start, cpu = time.perf_counter(), time.process_time()
    written = render(StudyResults(folder), folder / "report.html")
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    similarity = similarity_page(StudyResults(folder), folder / "similarity.html")
    return {
        **shown,
        "report_bytes": written.stat().st_size,
        "similarity_bytes": similarity.stat().st_size,
        **{name: round(value, 2) for name, value in took.items()},
        "peak_rss_bytes": peak,
        "renders": made.count("report.html.j2"),
    }


def make(folder: Path, tasks: int, layers: int, seeds: int) -> Path:
    """Makes the run folder of a random study."""
    from analyses.benchmarks.random_study import Size, make_run  # torch, which the pages do without

    return make_run(folder, Size(tasks, layers, seeds))


def run(tasks: int, layers: int, seeds: int) -> dict[str, Any]:
    """Makes a study of a size and measures its pages, in two fresh processes."""
    with tempfile.TemporaryDirectory(prefix="xmi-report-") as folder:
        start = time.perf_counter()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            made = pool.submit(make, Path(folder), tasks, layers, seeds).result()
        print(
            f"{tasks} tasks, {layers} layers, {seeds} seeds: run folder written in {time.perf_counter() - start:.0f} s",
            file=sys.stderr,
        )
        command = [sys.executable, "-m", "analyses.benchmarks.report_scale", "--measure", str(made)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"tasks": tasks, "layers": layers, "seeds": seeds, **found}


def page_of(found: Sequence[dict[str, Any]]) -> str:
    """The page of the documentation."""
    rows = "\n".join(
        f"| {r['tasks']} | {r['layers']} | {r['seeds']} | {r['records']} | {r['report_bytes'] / 1e6:.2f} MB | "
        f"{r['shown']} | {r['renders']} | {r['cpu_seconds']:.1f} s | {r['peak_rss_bytes'] / 1e6:.0f} MB | "
        f"{r['similarity_bytes'] / 1e6:.2f} MB |"
        for r in found
    )
    missed = [said for name, most, said in AIMS if any(r[name] > most for r in found)]
    return f"""# What a report costs

Studies of one model in which every number is drawn at random: answers that compress worse than those of any model.
Each task has 20, 11 and 19 items, and every source of the default plan is patched in after every layer.

- The report is one file of at most 8 MB. Plotly, figures and answers travel in it gzipped, so that it can be mailed and
  opens without a network; the similarity page carries its own plotly for the same reason.
- Answers are packed in blocks, of which the first holds the first answer of each list, and the others more and more of
  them; as many blocks are kept as fit.
- Records are read one after another, those of a block again when it is packed: what does not fit is never encoded.
- Peak memory is that of the whole process, the imports (torch is not among them) included. Seconds are the processor's
  (`time.process_time`), from opening the run folder to the written report, since other processes kept the machine busy.
- Aims: {", ".join(said for _, _, said in AIMS)}, one render. Missed here: {", ".join(missed) or "none"}.
- Command: `python -m analyses.benchmarks.report_scale`
- Machine: {platform.processor() or platform.machine()}, Python {platform.python_version()}

| tasks | layers | seeds | records | report | answers in it | renders | seconds | peak memory | similarity page |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tasks", "layers", "seeds"):
        parser.add_argument(f"--{name}", type=int, help=f"{name} of one study of another size")
    parser.add_argument("--measure", type=Path, metavar="RUN", help="measure the pages of a run folder that is there")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write when no size is given")
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure)))
    elif args.tasks or args.layers or args.seeds:
        print(json.dumps(run(args.tasks or 20, args.layers or 64, args.seeds or 1)))
    else:
        found = [run(*size) for size in SIZES]
        args.out.write_text(page_of(found), encoding="utf-8")
        for row in found:
            print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
