"""The command line. Thin: every command parses, calls the library, and prints; nothing heavy is imported for --help.

`flags` makes flags of the fields of a plan and of loading, `listing` shows tasks and models, `ending` says how commands
end.
"""

from __future__ import annotations

import gc
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmi.cli.ending import run_app
from xmi.cli.flags import model_names, task_files, with_flags
from xmi.cli.listing import list_models, list_tasks
from xmi.errors import ModelError
from xmi.load_options import HOSTS, Loading
from xmi.names import IMAGE_ICL, INSTRUCTION, NO_CONTEXT, RANDOM, TEXT_ICL, of_base
from xmi.numerals import estimate as with_interval
from xmi.studies import failures, run_each, run_to_page, studies_of
from xmi.study.plan import Plan, Running
from xmi.submit.resources import Resources
from xmi.terminal import put, put_table, say

if TYPE_CHECKING:
    from xmi.study import StudyResults

app = typer.Typer(
    help="Where, and in what form, does a vision-language model hold the task it was given?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; an interrupted run continues there.")]
Remote = Annotated[str | None, typer.Option(help="NDIF host: its address, or 'ndif' for the configured one.")]
Wait = Annotated[float | None, typer.Option(min=0, help="Seconds to wait for one job on the host (3600).")]
Model = Annotated[str, typer.Argument(help="Hub id, folder, or embedded name.", autocompletion=model_names)]

STUDIES, MODELS = "Studies", "Models and tasks"
"""Panels of the help that commands stand in."""


def _version(wanted: bool) -> None:
    if wanted:
        from xmi.versions import versions

        python = ".".join(map(str, sys.version_info[:3]))
        put(", ".join(f"{name} {number}" for name, number in {**versions(), "python": python}.items()))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the versions that numbers depend on."),
    ] = False,
) -> None:
    """Options of xmi itself; the help above stands with the app."""


@app.command(rich_help_panel=STUDIES)
def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="Number of seeds, or the seeds: 0,4,7.")] = "2",
) -> None:
    """Studies the embedded model together with its control, and writes an interactive report."""
    _study(out=out, model="organism", base="organism-llm", control="organism-control", seeds=seeds)


@app.command(rich_help_panel=STUDIES)
@with_flags(Plan, Loading, Running, leave=("model", "out", "preset"))
def run(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Hub id, folder, or embedded name; several: each.", autocompletion=model_names),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder (runs/study).")] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="Plan file (YAML); flags take precedence.")] = None,
    preset: Annotated[str | None, typer.Option(help="'paper': the paper's protocol.")] = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="If the plan has changed, start another run next to it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and what it costs.")] = False,
    **given: Any,
) -> None:
    """Runs the study on any model and writes an interactive report; of several models one after another."""
    one_or_more = model[0] if model and len(model) == 1 else model
    asked = {"model": one_or_more, "out": out, "plan": plan, "preset": preset, **given}
    studies = studies_of(**{name: value for name, value in asked.items() if value not in (None, [])})
    if dry_run:
        from xmi.study import dry_run as estimate

        put("\n\n".join(estimate(fork=fork, **study) for study in studies))
    elif len(studies) == 1:
        _study(fork=fork, **studies[0])
    else:
        _several(studies, fork=fork)


@app.command(rich_help_panel=STUDIES)
@with_flags(Resources)
def submit(
    plan: Annotated[Path, typer.Argument(help="Plan file (YAML); a job for each of its models.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder, in place of the plan's.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run the jobs on this machine, in the background.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Print a script for sbatch instead.")] = False,
    **given: Any,
) -> None:
    """Submits a plan to SLURM. A job that is killed or runs out of time continues when it is started again."""
    asked = Resources.of(**given)
    from xmi import submit as to_slurm

    if show:
        folder, _ = to_slurm.check_plan(plan, out)
        put(to_slurm.batch_script(plan, folder, asked, name=f"xmi-{folder.name}").removesuffix("\n"))
        return
    for job in to_slurm.submit(plan, out=out, resources=asked, local=local):
        put("\n".join(job.lines()))
    say("Killed or stopped, a job continues when the same command submits it again.")


@app.command(rich_help_panel=MODELS)
@with_flags(Loading, leave=(*HOSTS, "batch_size"))
def lens(
    model: Model,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The prompt; <image> stands for an image.")],
    image: Annotated[list[Path] | None, typer.Option("--image", "-i", help="An image file; repeatable.")] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="Tokens per layer.")] = 5,
    **loading: Any,
) -> None:
    """Decodes the last token of one prompt at every layer with the logit lens."""
    say(f"Loading {model} ...")
    import xmi

    text = prompt.replace("\\n", "\n")
    given = xmi.free_prompt(text, image or [])
    reading = xmi.load(model, **_given(loading)).lens(given, k=k)
    places = [f"top {place + 1}" if place else "top 1 (probability)" for place in range(k)]
    rows = [
        (depth, *(f"{t!r} {p:.2f}" for t, p in zip(tokens, shares, strict=True)))
        for depth, tokens, shares in zip(reading.depth, reading.tokens[0], reading.probabilities[0], strict=True)
    ]
    put_table(f"{model}: last token of {text!r}", ["residual after layer", *places], rows, first="right")


@app.command(rich_help_panel=MODELS)
@with_flags(Loading, leave=(*HOSTS, "batch_size"))
def check(
    model: Model,
    **loading: Any,
) -> None:
    """Checks what xmi finds in a model: readout, hooks, causality, residual bookkeeping, image path.

    Ends in PASS or FAIL, and exit code 0 or 1. What deviates or is missing is no failure: it is said and left out.
    """
    say(f"Loading {model} ...")
    import xmi

    try:
        vlm = xmi.load(model, **_given(loading), check=False)
        say("Checking ...")
        start = time.perf_counter()
        vlm.check()
    except ModelError as error:
        say(f"error ({type(error).__name__}): {error}")
        put(f"FAIL {model}")
        raise typer.Exit(1) from None
    put(vlm.describe())
    put(f"PASS {model} ({time.perf_counter() - start:.1f} s)")


@app.command("models", rich_help_panel=MODELS)
def show_models() -> None:
    """Lists the embedded models, and those of the Hub that are on this machine."""
    list_models()


@app.command("tasks", rich_help_panel=MODELS)
def show_tasks(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK...", help="Names, or your own files (all of xmi's).", autocompletion=task_files),
    ] = None,
) -> None:
    """Lists tasks: items per split, images, instruction. Of a file of your own all faults are named."""
    list_tasks(sources or [])


@app.command(rich_help_panel=STUDIES)
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; by default RUN/report.html.")] = None,
) -> None:
    """Writes the HTML report of a finished run again."""
    say(f"Reading {folder} ...")
    from xmi.report import render
    from xmi.study import StudyResults

    put(render(StudyResults(folder), out or folder / "report.html"))


@app.command(rich_help_panel=STUDIES)
def atlas(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file.")] = Path("atlas.html"),
) -> None:
    """Writes one HTML page over many runs: accuracies, transfer, phases and geometry of all models."""
    say(f"Reading {len(folders)} run(s) ...")
    from xmi.report import atlas_page

    put(atlas_page(folders, out))


host = typer.Typer(help="NDIF hosts.", no_args_is_help=True)
app.add_typer(host, name="remote", rich_help_panel=MODELS)


@host.command()
def status(
    model: Annotated[str, typer.Argument(help="Hub id, or embedded name.")],
    remote: Remote = "ndif",
    revision: Annotated[str | None, typer.Option(help="Hub revision; it is part of the model's key.")] = None,
    wait: Wait = 120.0,
    smoke: Annotated[bool, typer.Option("--smoke/--no-smoke", help="Run a forward of one token there.")] = True,
) -> None:
    """Says whether a host can run a model's jobs: reached, key valid, model deployed, versions, a forward of one token.

    The API key is read from NDIF_API_KEY or nnsight's configuration. Exit code 1 if jobs would fail.
    """
    import xmi
    from xmi.errors import RemoteError
    from xmi.remote import RemoteBackend

    where = True if remote == "ndif" else remote or True
    vlm = xmi.load(model, remote=where, revision=revision, wait=wait or 120.0, check=False)
    backend = vlm.engine.backend
    if not isinstance(backend, RemoteBackend):
        raise RemoteError(
            f"remote={remote}: {type(backend).__name__} has no host to ask. Give a host's address, or ndif."
        )
    found = backend.preflight(smoke=smoke)
    put("\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(1)


def _given(loading: dict[str, Any]) -> dict[str, Any]:
    """Options of `xmi.load` that were given, checked as those of a plan are."""
    from xmi.study.plan import check_options

    found = {name: value for name, value in loading.items() if value is not None}
    check_options(Loading, found)
    return found


def _study(**arguments: Any) -> None:
    start = time.perf_counter()
    say("Ctrl-C is safe: the same command continues. Reading the plan, then the model ...")
    # Half a million objects that stay: looking for garbage among them is a fifth of the imports' time.
    gc.disable()
    import_module("xmi.report")
    gc.freeze()
    gc.enable()
    try:
        results, page = run_to_page(say, **arguments)
    except KeyboardInterrupt:
        say("Interrupted. Finished cells are kept; the same command continues.")
        raise typer.Exit(130) from None
    _print_table(results)
    say(f"{time.perf_counter() - start:.0f} s in all. The report:")
    put(page.resolve())


def _several(studies: list[dict[str, Any]], **arguments: Any) -> None:
    """Studies several models; exit code 1 if any could not be studied."""
    start = time.perf_counter()
    try:
        say("Ctrl-C is safe: the same command continues.")
        several = run_each(studies, say, **arguments)
    except KeyboardInterrupt:
        say("Interrupted. Finished models and cells are kept; the same command continues.")
        raise typer.Exit(130) from None
    for results in several.finished:
        _print_table(results)
        put((results.path / "report.html").resolve())
    say(f"{time.perf_counter() - start:.0f} s in all.")
    if several.failed:
        say(f"{len(several.failed)} of {len(studies)} models failed:")
        for line in failures(several):
            say(line)
        raise typer.Exit(1)


def _print_table(results: StudyResults) -> None:
    """The transfer story in a few lines: one column per model, image queries where the study has them."""
    target = "image" if "image" in results.study["plan"]["targets"] else "text"
    base, cross, patch = ("Base", "xBase", "xPatch") if target == "image" else ("xBase", "Base", "Patch")
    rows = [
        (NO_CONTEXT, NO_CONTEXT, NO_CONTEXT),
        (f"image examples in the prompt ({base})", "prompt", IMAGE_ICL),
        (f"text examples in the prompt ({cross})", "prompt", TEXT_ICL),
        (f"text vector patched in ({patch})", "patch", TEXT_ICL),
        ("instruction vector patched in", "patch", INSTRUCTION),
        ("base LLM's text vector patched in", "patch", of_base(TEXT_ICL)),
        ("random vector patched in", "patch", RANDOM),
    ]
    tables, lines = [results.summary(model) for model in results.models], []
    for label, method, source in rows:
        cells = []
        for frame in tables:
            found = frame[(frame.method == method) & (frame.source == source) & (frame.target == target)]
            cells.append(
                with_interval(found.accuracy.item(), found.low.item(), found.high.item()) if len(found) else "-"
            )
        if any(cell != "-" for cell in cells):
            lines.append((label, *cells))
    title = f"Accuracy on {target} queries of held-out items, mean over tasks [95 % interval]"
    put_table(title, ["how the task is given", *results.models], lines, width=110)


def main() -> None:
    """Runs the command line."""
    run_app(app)
