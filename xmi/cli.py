"""The command line. Thin: every command parses, calls the library, and prints; nothing heavy is imported for --help."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xmi.errors import XmiError

if TYPE_CHECKING:
    from xmi.study import StudyResults

app = typer.Typer(
    help="Where, and in what form, does a vision-language model hold the task it was given?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; an interrupted run continues there.")]
Device = Annotated[str | None, typer.Option(help="Where the model goes (cpu, cuda, cuda:1).")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts per forward.")]
Trust = Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")]
Remote = Annotated[str | None, typer.Option(help="NDIF host: its address, or 'ndif' for the configured one.")]
Wait = Annotated[float | None, typer.Option(min=0, help="Seconds to wait for one job on the host (3600).")]
Resubmit = Annotated[
    bool, typer.Option("--resubmit", help="Send anew, and pay anew for, jobs that failed or were lost.")
]


@app.command()
def demo(out: Out = Path("runs/demo"), seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 2) -> None:
    """Studies the embedded model beside its control, and writes an interactive report."""
    _study(out=out, model="organism", base="organism-llm", control="organism-control", seeds=range(seeds))


@app.command()
def run(
    model: Annotated[str | None, typer.Argument(help="Hub id, folder, or embedded name.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder (runs/study).")] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="Plan file (YAML); flags given here come first.")] = None,
    preset: Annotated[str | None, typer.Option(help="'paper': the paper's protocol.")] = None,
    base: Annotated[str | None, typer.Option(help="Base LLM whose vectors are patched into the model.")] = None,
    control: Annotated[str | None, typer.Option(help="Second model to lay beside it.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Also the model with random weights.")] = False,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Task name or file; repeatable.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="What vectors are read from; repeatable (all).")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Modality of the queries; repeatable (both).")] = None,
    controls: Annotated[str | None, typer.Option(help="Control vectors, separated by commas, or 'none' (all).")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to patch: '0,5,8-12' (all).")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Examples per prompt (5).")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Prompts averaged into a task vector (30).")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds (3).")] = None,
    score: Annotated[str | None, typer.Option(help="What chooses the layer: paper, strict or whole.")] = None,
    whole: Annotated[bool | None, typer.Option("--whole/--first", help="Score whole labels, too.")] = None,
    fork: Annotated[bool, typer.Option("--fork", help="If the plan has changed, start another run beside.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on a CPU (as fits the model).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and what it costs.")] = False,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, or auto.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts per forward (16).")] = None,
    trust_remote_code: Trust = False,
    remote: Remote = None,
    wait: Wait = None,
    resubmit: Resubmit = False,
) -> None:
    """Runs the study on any vision-language model and writes an interactive report."""
    given = {
        "plan": plan, "preset": preset, "base": base, "control": control, "untrained": untrained or None,
        "tasks": task, "sources": source, "targets": target, "controls": _names(controls), "layers": _layers(layers),
        "shots": shots, "prompts": prompts, "seeds": tuple(range(seeds)) if seeds else None, "score": score,
        "whole": whole, "workers": workers, "device": device, "dtype": dtype, "batch_size": batch_size,
        "trust_remote_code": trust_remote_code or None, "remote": _host(remote), "wait": wait,
        "resubmit": resubmit or None,
    }  # fmt: skip
    folder = out or (None if plan else Path("runs/study"))
    arguments: dict[str, Any] = {"model": model, "out": folder, **{k: v for k, v in given.items() if v is not None}}
    if dry_run:
        from xmi.study import dry_run as estimate

        print(estimate(**arguments))
        return
    _study(fork=fork, **arguments)


@app.command()
def lens(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or embedded name.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The prompt; <image> stands for an image.")],
    image: Annotated[list[Path] | None, typer.Option("--image", "-i", help="An image file; repeatable.")] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="Tokens per layer.")] = 5,
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Decodes the last token of one prompt at every layer with the logit lens."""
    import xmi

    text = prompt.replace("\\n", "\n")
    given = xmi.free_prompt(text, image or [])
    vlm = xmi.load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    reading = vlm.lens(given, k=k)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{model}: last token of {text!r}", title_justify="left")
    table.add_column("residual after layer", justify="right")
    for place in range(k):
        table.add_column(f"top {place + 1}" if place else "top 1 (probability)")
    for depth, tokens, shares in zip(reading.depth, reading.tokens[0], reading.probabilities[0], strict=True):
        table.add_row(depth, *(Text(f"{t!r} {p:.2f}") for t, p in zip(tokens, shares, strict=True)))
    Console().print(table)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Hub id, folder, or embedded name.")],
    device: Device = None,
    dtype: Dtype = "auto",
    trust_remote_code: Trust = False,
) -> None:
    """Checks what xmi finds in a model: readout, hooks, causality, residual bookkeeping, image path."""
    import xmi

    vlm = xmi.load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, check=False)
    start = time.perf_counter()
    vlm.check()
    print(vlm.describe())
    say(f"Checked in {time.perf_counter() - start:.1f} s; what deviates or is missing stands above.")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; by default RUN/report.html.")] = None,
) -> None:
    """Writes the HTML report of a finished run again."""
    from xmi.report import render
    from xmi.study import StudyResults

    print(render(StudyResults(folder), out or folder / "report.html"))


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

    vlm = xmi.load(model, remote=_host(remote) or True, revision=revision, wait=wait or 120.0, check=False)
    assert vlm.served is not None  # noqa: S101 (remote was asked for)
    found = vlm.served.preflight(smoke=smoke)
    print("\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(1)


def _host(given: str | None) -> str | bool | None:
    """What `xmi.load` takes as `remote`."""
    return True if given == "ndif" else given


def _names(given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return () if given == "none" else tuple(name.strip() for name in given.split(","))


def _layers(given: str | None) -> tuple[int, ...] | None:
    """Layers from `0,5,8-12`."""
    if given is None:
        return None
    found: list[int] = []
    for part in given.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise typer.BadParameter(f"{part!r} in {given!r}: write layers as 0,5,8-12.", param_hint="--layers")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _study(**arguments: Any) -> None:
    start = time.perf_counter()
    # Half a million objects that stay: looking for garbage among them is a fifth of the imports' time.
    gc.disable()
    import xmi
    from xmi.report import render, similarity_page

    gc.freeze()
    gc.enable()
    try:
        say("Ctrl-C is safe: the same command continues.")
        results = xmi.run(say=say, **arguments)
        page = render(results, results.path / "report.html")
        similarity_page(results, results.path / "similarity.html")
    except KeyboardInterrupt:
        say("Interrupted. Finished cells are kept; the same command continues.")
        raise typer.Exit(130) from None
    _print_table(results)
    say(f"{time.perf_counter() - start:.0f} s in all. The report:")
    print(page.resolve())


def _print_table(results: StudyResults) -> None:
    """The transfer story in a few lines: one column per model, image queries where the study has them."""
    from rich.console import Console
    from rich.table import Table

    target = "image" if "image" in results.study["plan"]["targets"] else "text"
    base, cross, patch = ("Base", "xBase", "xPatch") if target == "image" else ("xBase", "Base", "Patch")
    rows = [
        ("no context", "no context", "no context"),
        (f"image examples in the prompt ({base})", "prompt", "image ICL"),
        (f"text examples in the prompt ({cross})", "prompt", "text ICL"),
        (f"text vector patched in ({patch})", "patch", "text ICL"),
        ("instruction vector patched in", "patch", "instruction"),
        ("base LLM's text vector patched in", "patch", "base LLM text ICL"),
        ("random vector patched in", "patch", "control: random vector"),
    ]
    table = Table(
        title=f"Accuracy on {target} queries of held-out items, mean over tasks [95 % interval]",
        title_justify="left",
    )
    table.add_column("how the task is given")
    for model in results.models:
        table.add_column(model)
    tables = [results.summary(model) for model in results.models]
    for label, method, source in rows:
        cells = []
        for frame in tables:
            found = frame[(frame.method == method) & (frame.source == source) & (frame.target == target)]
            cells.append(
                f"{found.accuracy.item():.2f} [{found.low.item():.2f}, {found.high.item():.2f}]" if len(found) else "-"
            )
        if any(cell != "-" for cell in cells):
            table.add_row(label, *cells)
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def say(line: str) -> None:
    """Prints a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Runs the command line; errors that xmi raises on purpose end in one message and exit code 1."""
    # The models named here are local or cached; a bar per weight file would drown the progress lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except XmiError as error:
        say(f"error ({type(error).__name__}): {error}")
        sys.exit(1)


__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
