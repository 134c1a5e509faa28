"""What a whole study costs, compared with the published algorithm doing the same cells.

The default study of the embedded model, `xmi run organism --base organism-llm --seeds 3`, in a fresh process and from
its start to the written report, with nothing remembered from earlier runs: at most 60 seconds on two cores, and at
least 30 times faster than the published algorithm (`published.py`). Usage::

    python -m analyses.benchmarks.study            # writes docs/study_speed.md
    python -m analyses.benchmarks.study --quick    # within three minutes; the last line is a JSON object

What was done is counted in what the run stored. Every record of `records.jsonl` is a prompt, which costs the published
algorithm one call of `generate`, or a query with a vector patched in after each of N layers, which costs it N. The
prompts that vectors were averaged over come from the plan, one call each; a set of prompts that is read at two slots or
under several seeds counts once. Encoding a prompt counts once per record, not once per layer. Ensembling and
overriding, of which shares are stored and not answers, are counted from the functions that make their prompts.

The published algorithm would take too long to run as a whole, so cells are sampled: strata are the kinds of records (a
method, a modality, and for prompts how the task is given), in each of which cells are drawn at random without
replacement, more where more of the total's uncertainty comes from. The total is the sum over strata of the number of
cells times their mean time; its interval is that of stratified sampling (W. G. Cochran, Sampling Techniques, 1977,
chapter 5), at 95 %. It says what the draw leaves open, not how fast another machine would be. The published algorithm
is sampled with one thread and with one per core, and the faster is taken.

The sampled answers must be those that xmi stored, or the comparison is refused. What else the study does (labels scored
whole, which takes several tokens; phases, geometry, statistics, tables, images, the report, the check of the model) is
in xmi's time only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import NormalDist, fmean, median, variance
from typing import Any

import torch
import transformers as hf
from PIL import Image

import xmi
from analyses.benchmarks.overhead import machine, say
from analyses.benchmarks.published import Published
from xmi.errors import RunError
from xmi.prompt import Prompt
from xmi.study import StudyResults
from xmi.study.experiments.ensembling import ensemble_sizes
from xmi.study.plan import Plan
from xmi.study.prompts import reads
from xmi.vector import TaskVector, shared_pairs
from xmi.vector.override import asked_prompts, contest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "study_speed.md"
TARGETS = {"seconds": ("the whole study, start to report", "at most", 60.0),
           "published_over": ("published algorithm over xmi", "at least", 30.0)}  # fmt: skip
LEAST = 4
"""Cells that are sampled of a kind at least."""

AGREE = 0.99
"""Share of sampled answers that must be xmi's; the rest is room for ties."""


@dataclass(frozen=True)
class Job:
    """Something that the published algorithm does in one go.

    Attributes:
        calls: Calls of `generate` that it takes.
        do: Does it; returns the answers.
        stored: xmi's answers, or None where none are stored.
    """

    calls: int
    do: Callable[[], list[str]]
    stored: list[str] | None = None


@dataclass
class Stratum:
    """Jobs of one kind, in random order, and what was measured of them.

    Attributes:
        kind: What they are.
        jobs: All of them; those at the front were measured.
        seconds: Time of each that was.
        alike: Answers that were the same as xmi's.
        compared: Answers that were compared.
    """

    kind: str
    jobs: list[Job]
    seconds: list[float] = field(default_factory=list)
    alike: int = 0
    compared: int = 0

    @property
    def total(self) -> float:
        """Estimated seconds of all jobs."""
        return len(self.jobs) * fmean(self.seconds)

    @property
    def variance(self) -> float:
        """Variance of that estimate; none if every job was measured."""
        n, count = len(self.seconds), len(self.jobs)
        return count * (count - n) * variance(self.seconds) / n if n > 1 else 0.0

    @property
    def gain(self) -> float:
        """What one more measured job takes from that variance, about."""
        n = len(self.seconds)
        return 0.0 if n == len(self.jobs) else float("inf") if n < LEAST else self.variance / (n + 1)

    @property
    def calls(self) -> int:
        """Calls of `generate` of all jobs."""
        return sum(job.calls for job in self.jobs)

    def measure(self) -> None:
        """Does the next job and notes its time."""
        job = self.jobs[len(self.seconds)]
        begin = time.perf_counter()
        answers = job.do()
        self.seconds.append(time.perf_counter() - begin)
        if job.stored is not None:
            self.compared += len(answers)
            self.alike += sum(a == b for a, b in zip(answers, job.stored, strict=True))


@dataclass(frozen=True)
class Sides:
    """The study's model and its base LLM, as the published algorithm takes them."""

    eye: Published
    base: Published | None

    @classmethod
    def of(cls, plan: Plan) -> Sides:
        """Loads them."""
        found = [xmi.load(name, check=False) for name in (plan.model, plan.base) if name is not None]
        each = [Published(vlm.model, vlm.encoder.processor or vlm.encoder.tokenizer) for vlm in found]
        return cls(each[0], each[1] if len(each) > 1 else None)


def run_study(options: Sequence[str], out: Path, scratch: Path) -> float:
    """Runs the study in a process of its own; returns the seconds from its start to its end."""
    code = "import sys; from xmi.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", *options, "--out", str(out)]
    environment = {**os.environ, "XMI_CACHE": str(scratch / out.name), "HF_HUB_OFFLINE": "1"}
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode or not (out / "report.html").is_file():
        raise RuntimeError(f"The study ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds


def strata_of(results: StudyResults, sides: Sides, seed: int = 0) -> list[Stratum]:
    """Everything that the published algorithm would have to do for a stored study, by kind.

    Raises:
        RuntimeError: The study has several models.
    """
    plan = Plan.model_validate(results.study["plan"])
    if len(results.models) > 1:
        raise RuntimeError(f"One model is compared, the study has {', '.join(results.models)}.")
    jobs: dict[str, list[Job]] = defaultdict(list)
    for kind, job in [
        *_of_reads(plan, sides),
        *_of_records(results, sides.eye),
        *_of_experiments(results, plan, sides),
    ]:
        jobs[kind].append(job)
    rng = random.Random(seed)
    return [Stratum(kind, rng.sample(found, len(found))) for kind, found in sorted(jobs.items())]


def _of_reads(plan: Plan, sides: Sides) -> Iterable[tuple[str, Job]]:
    """The prompts that vectors are averaged over, each once."""
    done = set()
    for name in plan.tasks:
        task = xmi.task(name)
        for step in (step for seed in plan.seeds for step in reads(plan, task, seed)):
            side = sides.base if step.base else sides.eye
            for prompt in step.prompts:
                if side is None or (step.base, prompt) in done:
                    continue
                done.add((step.base, prompt))
                whose = "base LLM " if step.base else ""
                yield f"vector · {whose}{step.prompts.specification}", Job(1, partial(_read, side, prompt))


def _read(side: Published, prompt: Prompt) -> list[str]:
    side.read(_pieces(prompt))
    return []


def _pieces(prompt: Prompt) -> list[str | Image.Image]:
    return [s.text if s.image is None else Image.open(str(s.image)) for s in prompt.segments]


def _of_experiments(results: StudyResults, plan: Plan, sides: Sides) -> Iterable[tuple[str, Job]]:
    """Ensembling and overriding, whose answers are not stored one by one: vectors, patches and prompts."""
    tasks, eye = [xmi.task(name) for name in plan.tasks], sides.eye
    values = TaskVector.load(next((results.path / "vectors").glob("*.safetensors"))).values
    every = list(range(len(eye.blocks)))

    def patches(prompts: Iterable[Prompt], sets: int, layers: list[int]) -> Iterable[Job]:
        for prompt in prompts:
            job = Job(len(layers), partial(lambda p, at: eye.patch(_pieces(p), values, at), prompt, layers))
            yield from [job] * sets

    def reading(prompts: Iterable[Prompt]) -> Iterable[Job]:
        return (Job(1, partial(_read, eye, prompt)) for prompt in dict.fromkeys(prompts))

    counts = ensemble_sizes(plan)
    for task in tasks if "ensembling" in plan.experiments else ():
        drawn = [p for s in plan.seeds for p in task.icl("text", shots=1, n=counts[-1], seed=s)]
        yield from (("vector · ensembling", job) for job in reading(drawn))
        sets = 1 + 2 * len(counts) * len(plan.seeds)
        for target in plan.targets:
            for split, layers in (("validation", every), ("test", every[:1])):
                asked = patches(task.queries(target, split=split), sets, layers)
                yield from ((f"patch · ensembling, {split} > {target}", job) for job in asked)
    for one, two in shared_pairs(tasks) if "overriding" in plan.experiments else ():
        mine, theirs = contest(one, two)
        options = {"shots": plan.shots, "seed": plan.seeds[0]}
        drawn = theirs.icl("text", n=plan.prompts, split=theirs.examples, **options)
        yield from (("vector · overriding", job) for job in reading(drawn))
        asked = asked_prompts(mine, "text", "text", **options)
        layers = list(plan.layers or every)
        yield from (("patch · overriding", job) for job in patches(asked, 2, layers))
        for prompt in [p for p in asked for _ in ("no patch", "system prompt")]:
            yield "prompt · overriding", Job(1, partial(lambda p: [eye.answer(_pieces(p))], prompt))


def _of_records(results: StudyResults, side: Published) -> Iterable[tuple[str, Job]]:
    """Prompts, and queries with a vector patched in."""
    loaded: dict[tuple[Any, ...], torch.Tensor] = {}
    special = set(side.tokenizer.all_special_tokens)

    def vector(record: dict[str, Any]) -> torch.Tensor | None:
        key = record["model"], record["task"], record["source"], record["seed"]
        if key not in loaded:
            with suppress(RunError):  # not stored
                loaded[key] = results.vector(*key).values
        return loaded.get(key)

    def pieces(record: dict[str, Any]) -> list[str | Image.Image]:
        folder = results.path / "images"
        return [p["text"] if "text" in p else Image.open(folder / p["image"]) for p in record["prompt"]]

    def prompted(record: dict[str, Any]) -> list[str]:
        return [side.answer(pieces(record))]

    def patched(record: dict[str, Any], values: torch.Tensor | None) -> list[str]:
        # Time does not depend on the values: where they are not stored any other vector will do.
        written = values if values is not None else next(iter(loaded.values()))
        return side.patch(pieces(record), written, record["layers"])

    for record in results.records():
        if "layers" in record:
            values = vector(record)
            kind, job, stored = record["method"], partial(patched, record, values), record["predicted"]
            known = values is not None
        else:
            kind = " · ".join(dict.fromkeys((record["method"], record["source"])))
            job, stored, known = partial(prompted, record), [record["predicted"]], True
        shown = ["" if answer in special else answer for answer in stored]  # as the published code decodes
        yield f"{kind} > {record['target']}", Job(len(stored), job, shown if known else None)


def sample(strata: Sequence[Stratum], seconds: float) -> None:
    """Measures jobs until the time is up, but at least a few of every kind: always where it tells most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end or any(s.gain == float("inf") for s in strata):
        best = max(strata, key=lambda s: s.gain)
        if best.gain == 0.0:
            return
        best.measure()


def fastest(strata: Sequence[Stratum], seconds: float) -> tuple[list[Stratum], int]:
    """Samples with one thread and with one per core; returns what was measured with the faster, and their number.

    Threads of a model this small wait for each other more than they help as soon as the machine has other work, which
    would make the published algorithm look many times slower than it is.
    """
    found: dict[int, list[Stratum]] = {}
    counts = sorted({1, os.cpu_count() or 1})
    for threads in counts:
        torch.set_num_threads(threads)
        found[threads] = [Stratum(s.kind, s.jobs) for s in strata]
        for stratum in strata:  # a warm-up
            stratum.jobs[-1].do()
        sample(found[threads], seconds / len(counts))
    best = min(counts, key=lambda threads: sum(s.total for s in found[threads]))
    torch.set_num_threads(best)
    return found[best], best


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        seconds: Of the whole study, one per repeat.
        strata: What the published algorithm would do, and what was measured of it.
        threads: With how many threads.
        plan: The study's plan.
    """

    seconds: tuple[float, ...]
    strata: tuple[Stratum, ...]
    threads: int
    plan: dict[str, Any]

    @property
    def published(self) -> tuple[float, float, float]:
        """Seconds of the published algorithm: estimate and both ends of its interval."""
        total = sum(s.total for s in self.strata)
        half = NormalDist().inv_cdf(0.975) * sqrt(sum(s.variance for s in self.strata))
        return total, max(0.0, total - half), total + half

    @property
    def over(self) -> tuple[float, float, float]:
        """The same over the study's seconds (their median)."""
        total, low, high = self.published
        taken = median(self.seconds)
        return total / taken, low / taken, high / taken

    @property
    def agreement(self) -> float:
        """Share of the sampled answers that are those that xmi stored."""
        compared = sum(s.compared for s in self.strata)
        return sum(s.alike for s in self.strata) / compared if compared else 0.0

    @property
    def reached(self) -> dict[str, float]:
        """What was measured of each target."""
        return {"seconds": median(self.seconds), "published_over": self.over[0]}


def met(name: str, value: float) -> bool:
    """Whether a target is met."""
    _, kind, bound = TARGETS[name]
    return value <= bound if kind == "at most" else value >= bound


def measure(options: Sequence[str], *, repeats: int, seconds: float, quick: bool = False) -> Result:
    """Runs the study, then the published algorithm on a sample of its cells.

    Args:
        options: Arguments of `xmi run`.
        repeats: How often the study is run.
        seconds: How long cells are sampled.
        quick: Sample for less where the study took long, so that all ends within three minutes.

    Raises:
        RuntimeError: The study fails, or the published algorithm's answers are not those of xmi.
    """
    with tempfile.TemporaryDirectory(prefix="xmi-study-") as folder:
        taken = []
        for repeat in range(repeats):
            say(f"xmi run {' '.join(options)} ({repeat + 1}/{repeats})")
            out = Path(folder) / f"run-{repeat}"
            taken.append(run_study(options, out, Path(folder) / "cache"))
            say(f"{taken[-1]:.1f} s")
        results = StudyResults(out)
        strata = strata_of(results, Sides.of(Plan.model_validate(results.study["plan"])))
        seconds = min(seconds, max(10.0, 150.0 - sum(taken))) if quick else seconds
        say(f"Published algorithm: {sum(s.calls for s in strata)} calls of generate, sampling for {seconds:.0f} s")
        measured, threads = fastest(strata, seconds)
        found = Result(tuple(taken), tuple(measured), threads, results.study["plan"])
    if not found.agreement >= AGREE:
        raise RuntimeError(f"Of the published algorithm's sampled answers {found.agreement:.1%} are those of xmi.")
    return found


def summary(result: Result) -> dict[str, Any]:
    """The JSON object of the last line."""
    total, low, high = result.published
    kinds: dict[str, int] = defaultdict(int)
    for stratum in result.strata:
        kinds[stratum.kind.split(" > ")[0].split(" · ")[0]] += stratum.calls
    return {
        **result.reached,
        "published_over_interval": list(result.over[1:]),
        "targets": {name: bound for name, (_, _, bound) in TARGETS.items()},
        "published_seconds": total,
        "published_seconds_interval": [low, high],
        "published_calls": dict(kinds),
        "published_calls_sampled": sum(job.calls for s in result.strata for job in s.jobs[: len(s.seconds)]),
        "published_threads": result.threads,
        "same_answers": result.agreement,
        "tasks": len(result.plan["tasks"]),
        "seeds": len(result.plan["seeds"]),
    }


def page(result: Result, options: Sequence[str], command: str) -> str:
    """The page of the documentation."""
    total, low, high = result.published
    calls = sum(s.calls for s in result.strata)
    sampled = sum(job.calls for s in result.strata for job in s.jobs[: len(s.seconds)])
    count = len(result.seconds)
    lines = [
        "# What a study costs",
        "",
        f"The default study of the embedded model, `xmi run {' '.join(options)}`, compared with the published "
        f"algorithm doing the same cells: {len(result.plan['tasks'])} tasks, {len(result.plan['seeds'])} seeds, all "
        "sources, targets and layers.",
        "",
        "- xmi: seconds from the start of a fresh process to the written report, nothing remembered from earlier runs; "
        + (
            f"median of {count} runs ({min(result.seconds):.1f} to {max(result.seconds):.1f})."
            if count > 1
            else "one run."
        ),
        "- Published algorithm (`analyses/benchmarks/published.py`): one call of "
        "`generate(max_new_tokens=1, use_cache=False)` per prompt, and per query, vector and layer; one prompt at a "
        f"time, {result.threads} thread{'s' * (result.threads > 1)} (the faster of one and one per core).",
        f"- Its {calls} calls were counted from the study's records and plan, {sampled} of them measured: drawn at "
        "random within each kind. The total is extrapolated, with a 95 % interval of stratified sampling.",
        f"- {result.agreement:.2%} of the sampled answers are those that xmi stored.",
        "- In xmi's time only: labels scored whole (several tokens for each answer), phases, geometry, statistics, the "
        "check of the models, and the report.",
        f"- Command: `{command}`",
        f"- Machine: {machine(torch.get_num_threads())}",
        "",
        "| | target | measured |",
        "| --- | ---: | ---: |",
    ]
    intervals = {"published_over": f" ({result.over[1]:.1f} to {result.over[2]:.1f})"}
    for name, value in result.reached.items():
        what, kind, bound = TARGETS[name]
        unit = " s" if name == "seconds" else ""
        mark = "" if met(name, value) else " (missed)"
        lines.append(f"| {what} | {kind} {bound:g}{unit} | {value:.1f}{unit}{intervals.get(name, '')}{mark} |")
    lines += [
        "",
        f"The published algorithm would take {total:.0f} s ({low:.0f} to {high:.0f}).",
        "",
        "| kind | records | calls | measured | per call | in all |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for s in sorted(result.strata, key=lambda s: -s.total):
        lines.append(
            f"| {s.kind.replace('>', 'to')} | {len(s.jobs)} | {s.calls} | {len(s.seconds)} | "
            f"{1e3 * s.total / s.calls:.1f} ms | {s.total:.1f} s |"
        )
    return "\n".join([*lines, ""])


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.benchmarks.study", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one run and a smaller sample, as JSON")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the study")
    parser.add_argument(
        "--task", action="append", default=[], help="a task of the study; repeatable (default: all six)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of the study (--quick: 1)")
    parser.add_argument("--seconds", type=float, default=120.0, help="time for the sample (--quick: at most 40)")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    args = parser.parse_args(given)
    if min(args.seeds, args.repeats) < 1 or args.seconds <= 0:
        parser.error("--seeds and --repeats are at least 1, --seconds more than 0")
    return args


def run(args: argparse.Namespace, command: str) -> int:
    """Measures what was asked for; returns the exit code."""
    hf.utils.logging.disable_progress_bar()
    options = ["organism", "--base", "organism-llm", "--seeds", str(args.seeds)]
    options += [word for task in args.task for word in ("--task", task)]
    if args.quick:
        print(json.dumps(summary(measure(options, repeats=1, seconds=min(40.0, args.seconds), quick=True))))
        return 0
    result = measure(options, repeats=args.repeats, seconds=args.seconds)
    args.out.write_text(page(result, options, command), encoding="utf-8")
    for name, value in result.reached.items():
        print(f"{name} {value:.1f}{'' if met(name, value) else ' (missed)'}")
    print(json.dumps(summary(result)))
    return 0


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = arguments(given)
    words = [a for a in (sys.argv[1:] if given is None else given) if a != str(args.out) and a != "--out"]
    set_by_hand = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS",) if name in os.environ]
    try:
        return run(args, " ".join([*set_by_hand, "python -m analyses.benchmarks.study", *words]))
    except KeyboardInterrupt:
        say("Interrupted; nothing was written.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
