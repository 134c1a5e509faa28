"""The command line. Thin: every command parses, calls the library, and prints; nothing heavy is imported for --help.

The flags of a plan and of loading are the fields of `Plan` and `Loading`, so that none can be forgotten.
"""

from __future__ import annotations

import gc
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel

from xmi.errors import XmiError
from xmi.load_options import HOSTS, Loading
from xmi.names import IMAGE_ICL, INSTRUCTION, NO_CONTEXT, RANDOM, TEXT_ICL, of_base
from xmi.numerals import estimate as with_interval
from xmi.studies import failures, run_each, run_to_page, studies_of
from xmi.study.plan import Plan, Running
from xmi.submit.resources import Resources
from xmi.terminal import close_streams, open_streams, put, put_table, quiet_libraries, say

if TYPE_CHECKING:
    from xmi.study import StudyResults

app = typer.Typer(
    help="Where, and in what form, does a vision-language model hold the task it was given?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ALSO = {
    "tasks": ("--task", "-t"),
    "sources": ("--source",),
    "targets": ("--target",),
    "whole": ("--whole/--first",),
}
"""Further flags of some keys."""

Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; an interrupted run continues there.")]
Remote = Annotated[str | None, typer.Option(help="NDIF host: its address, or 'ndif' for the configured one.")]
Wait = Annotated[float | None, typer.Option(min=0, help="Seconds to wait for one job on the host (3600).")]

Command = Callable[..., None]


def with_flags(*kinds: type[BaseModel], leave: Collection[str] = ()) -> Callable[[Command], Command]:
    """Gives a command a flag for every field; what was given arrives as keywords.

    Args:
        kinds: Models whose fields are meant, with their descriptions as help.
        leave: Fields to leave out.
    """

    def add(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        fixed = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field))
            for kind in kinds
            for name, field in kind.model_fields.items()
            if name not in leave
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in fixed] + made
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return add


def _flag(name: str, field: Any) -> Any:
    """The annotation from which typer makes a field's flag; what a value may be is the field's to say."""
    key, parts = f"--{name.replace('_', '-')}", _parts(field.annotation)
    also = ALSO.get(name, ())
    if bool in parts:
        kind: Any = bool
        also = also or (f"{key}/--no-{key[2:]}",)
        key = also[0]
    elif any(get_origin(part) is tuple for part in parts):
        kind = str if int in parts else list[str]  # numbers are written as 0,5,8-12
    else:
        kind = next((number for number in (int, float) if number in parts), str)
    return Annotated[kind | None, typer.Option(*dict.fromkeys((key, *also)), help=field.description)]


def _parts(annotation: Any) -> list[Any]:
    """An annotation and all that it is made of."""
    return [annotation, *(part for inner in get_args(annotation) for part in _parts(inner))]


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


@app.command()
def demo(out: Out = Path("runs/demo"), seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 2) -> None:
    """Studies the embedded model together with its control, and writes an interactive report."""
    _study(out=out, model="organism", base="organism-llm", control="organism-control", seeds=range(seeds))


@app.command()
@with_flags(Plan, Loading, Running, leave=("model", "out", "preset"))
def run(
    model: Annotated[list[str] | None, typer.Argument(help="Hub id, folder, or embedded name; several: each.")] = None,
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


@app.command()
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


@app.command()
@with_flags(Loading, leave=(*HOSTS, "batch_size"))
def lens(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or embedded name.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The prompt; <image> stands for an image.")],
    image: Annotated[list[Path] | None, typer.Option("--image", "-i", help="An image file; repeatable.")] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="Tokens per layer.")] = 5,
    **loading: Any,
) -> None:
    """Decodes the last token of one prompt at every layer with the logit lens."""
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


@app.command()
@with_flags(Loading, leave=(*HOSTS, "batch_size"))
def check(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or embedded name.")],
    **loading: Any,
) -> None:
    """Checks what xmi finds in a model: readout, hooks, causality, residual bookkeeping, image path."""
    import xmi

    vlm = xmi.load(model, **_given(loading), check=False)
    start = time.perf_counter()
    vlm.check()
    put(vlm.describe())
    say(f"Checked in {time.perf_counter() - start:.1f} s; what deviates or is missing stands above.")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; by default RUN/report.html.")] = None,
) -> None:
    """Writes the HTML report of a finished run again."""
    from xmi.report import render
    from xmi.study import StudyResults

    put(render(StudyResults(folder), out or folder / "report.html"))


@app.command()
def atlas(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file.")] = Path("atlas.html"),
) -> None:
    """Writes one HTML page over many runs: accuracies, transfer, phases and geometry of all models."""
    from xmi.report import atlas_page

    put(atlas_page(folders, out))


host = typer.Typer(help="NDIF hosts.", no_args_is_help=True)
app.add_typer(host, name="remote")


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
    # Half a million objects that stay: looking for garbage among them is a fifth of the imports' time.
    gc.disable()
    import_module("xmi.report")
    gc.freeze()
    gc.enable()
    try:
        say("Ctrl-C is safe: the same command continues.")
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
    """Runs the command line; errors that xmi raises on purpose end in one message and exit code 1."""
    quiet_libraries()
    open_streams()
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    try:
        code = _run()
    except BrokenPipeError:  # who read what is printed went away
        code = 1
    sys.exit(code if close_streams() else code or 1)


def _run() -> int:
    """Runs the command and returns its exit code."""
    try:
        return int(app(standalone_mode=False) or 0)
    except XmiError as error:
        say(f"error ({type(error).__name__}): {error}")
        return 1
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk that is full, a file that went away
        say(f"error ({type(error).__name__}): {error}")
        return 1
    except Exception as error:  # typer's own: it has no public class for all of them
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        usage = "" if context is None else context.get_usage()
        say("\n".join(part for part in (usage, f"error: {error.format_message()}" if str(error) else "") if part))
        return int(getattr(error, "exit_code", 2))


__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
