r"""Writes the model card from the evaluations of finished runs.

    python -m analyses.organism.card --runs runs/organism-1 runs/organism-0 runs/organism-2 \
        --control runs/control --ablations runs/ablation-* --out xmi/data/organism

copies the first run's VLM and base LLM and the control's VLM to the folder and writes ``MODEL_CARD.md`` there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from analyses.organism.cells import REPEATS
from xmi.measure import wilson

Result = dict[str, Any]

BARS = (
    ("image ICL", "image ICL", ">=", 0.90),
    ("xPatch text->image", "text->image", ">=", 0.85),
    ("xPatch image->text", "image->text", ">=", 0.95),
    ("instruction prompt, image query", "instruction prompt, image", ">=", 0.90),
    ("no context, text", "no context, text", "<=", 0.02),
    ("no context, image", "no context, image", "<=", 0.02),
    ("base LLM -> VLM (image query)", "llm->image", ">=", 0.85),
)
ABLATION = (
    "text ICL",
    "image ICL",
    "instruction prompt, image",
    "text->text",
    "text->image",
    "image->text",
    "instruction->image",
    "xBase text->image",
)
HOW = (
    "n = {n} test pairs per cell, each asked seven times with other examples or another draw of the vector. The share "
    "is over all answers, Wilson's 95 % interval counts pairs alone; layers are chosen on validation pairs."
)
SHIPPED = (
    "Three runs of the final recipe; `vlm/` and `llm/` are those of seed {seed}, taken after this evaluation as the "
    "run in which a patched vector and a cross-modal prompt differ most. The spread between seeds is the measure of "
    "the recipe."
)
ABLATIONS = (
    "## Ablations\n\nWhat is not named is as in the final recipe. Minutes are of training on one thread, on "
    "a machine that other work shared; a run alone takes about half as long."
)
INTRO = Path(__file__).with_name("CARD_INTRO.md")
EXPLORED = Path(__file__).with_name("EXPLORED.md")


def value(result: Result, cell: str) -> dict[str, Any]:
    """Return a cell of a result, prompted or patched."""
    found: dict[str, Any] = (result["prompts"] | result["patches"])[cell]
    # Repeats of a pair are not independent: the interval must not be narrower than the pairs allow.
    pairs = wilson(found["value"], found["n"] // REPEATS)
    return {**found, "n": pairs.n, "low": pairs.low, "high": pairs.high}


def shown(entry: dict[str, Any]) -> str:
    """Return a share with its interval, and its layer if it has one."""
    text = f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{text} (layer {entry['layer']})" if "layer" in entry else text


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def phase(result: Result, prompt: str) -> float:
    """Return by how much the task word outweighs input and answer in the lens, in the layer where it does most."""
    curve = result["phases"][prompt]
    layers = list(zip(curve["input"], curve["task"], curve["answer"], strict=True))[1:]
    return max(task - max(given, answer) for given, task, answer in layers)


def bars(runs: list[Result], control: Result | None) -> str:
    """Return the table of the figures that were asked for, met or not."""
    rows = []
    for name, cell, sign, bar in BARS:
        values = [value(r, cell)["value"] for r in runs]
        met = all(v >= bar if sign == ">=" else v <= bar for v in values)
        row = [name, f"{sign} {bar:.2f}", *(f"{v:.3f}" for v in values), "yes" if met else "no"]
        rows.append([*row, f"{value(control, cell)['value']:.3f}"] if control else row)
    for prompt in ("text ICL", "image ICL"):
        leads = [phase(r, prompt) for r in runs]
        row = [f"lens, {prompt}: lead of the task word", "> 0", *(f"{v:.2f}" for v in leads)]
        row.append("yes" if min(leads) > 0 else "no")
        rows.append([*row, f"{phase(control, prompt):.2f}"] if control else row)
    head = ["cell", "bar", *(f"seed {r['recipe']['seed']}" for r in runs), "met by all", "control"]
    return table(head if control else head[:-1], rows)


def cells(runs: list[Result], control: Result | None) -> str:
    """Return every measured share with its interval."""
    every = [*runs, *([control] if control else [])]
    names = [*every[0]["prompts"], *every[0]["patches"]]
    head = ["cell", *(f"seed {r['recipe']['seed']}" for r in runs), "spread (max - min)"]
    rows = []
    for name in names:
        values = [value(r, name)["value"] for r in runs]
        row = [name, *(shown(value(r, name)) for r in runs), f"{max(values) - min(values):.3f}"]
        rows.append([*row, shown(value(control, name))] if control else row)
    return table([*head, "control"] if control else head, rows)


def contrasts(runs: list[Result]) -> str:
    """Return the two contrasts of the paper, for each seed, and whether the intervals lie apart."""
    pairs = (
        ("xPatch above xBase (text -> image)", "text->image", "xBase text->image"),
        ("xPatch with instruction above xBase", "text + instruction->image", "xBase text->image"),
        ("ensemble above one example", "one example + instruction->image", "one example->image"),
    )
    rows = []
    for name, high, low in pairs:
        for r in runs:
            a, b = value(r, high), value(r, low)
            apart = "yes" if a["low"] > b["high"] else "no"
            rows.append([name, str(r["recipe"]["seed"]), shown(a), shown(b), f"{a['value'] - b['value']:+.3f}", apart])
    return table(["contrast", "seed", "first", "second", "difference", "intervals apart"], rows)


def by_task(result: Result) -> str:
    """Return the share of each task and cell, patches at the layer chosen for all tasks."""
    keys = list(result["tasks"]["text ICL"])
    return table(["cell", *keys], [[c, *(f"{v[k]:.2f}" for k in keys)] for c, v in result["tasks"].items()])


def curves(result: Result) -> str:
    """Return patching accuracy and lens phases by layer."""
    layers = range(len(result["patches"]["text->text"]["test"]))
    rows = [[n, *(f"{v:.2f}" for v in e["test"])] for n, e in result["patches"].items()]
    patched = table(["patch", *(f"layer {i}" for i in layers)], rows)
    rows = [[k, p, *(f"{v:.2f}" for v in line)] for k, c in result["phases"].items() for p, line in c.items()]
    lens = table(["prompt", "relative probability", "embedding", *(f"layer {i}" for i in layers)], rows)
    rows = [[k, *(f"{v:.2f}" for v in line)] for k, line in result["cosine"].items()]
    cosine = table(["cosine of text and image vector", "embedding", *(f"layer {i}" for i in layers)], rows)
    return f"{patched}\n\n{lens}\n\n{cosine}"


def ablations(runs: list[Result], others: list[Result]) -> str:
    """Return one row per variant, with the settings in which it differs from the final recipe."""
    rows = []
    final = runs[0]
    for r in [*runs, *others]:
        skip = ("variant", "seed")
        changed = [f"{k}={v}" for k, v in r["recipe"].items() if k not in skip and v != final["recipe"].get(k)]
        minutes = sum(r["training_seconds"].values()) / 60
        shares = [f"{value(r, c)['value']:.2f}" for c in ABLATION]
        what = ", ".join(changed) or "the final recipe"
        rows.append([r["recipe"]["variant"], str(r["recipe"]["seed"]), what, *shares, f"{minutes:.0f}"])
    return table(["variant", "seed", "what differs", *ABLATION, "minutes"], rows)


def compose(runs: list[Result], control: Result | None, others: list[Result]) -> str:
    """Return the whole card."""
    final = runs[0]
    test = value(final, "text->image")["n"]
    extra = [control] if control else []
    return (
        "\n\n".join(
            [
                INTRO.read_text(encoding="utf-8").strip(),
                f"## The figures asked for\n\n{SHIPPED.format(seed=final['recipe']['seed'])}",
                bars(runs, control),
                "## The paper's contrasts",
                contrasts(runs),
                f"## Every cell\n\n{HOW.format(n=test)}",
                cells(runs, control),
                f"## By task (seed {final['recipe']['seed']}, test pairs)",
                by_task(final),
                f"## By layer (seed {final['recipe']['seed']}, test pairs)",
                curves(final),
                *(["### The control by layer", curves(control)] if control else []),
                ABLATIONS,
                ablations(runs, [*extra, *others]),
                EXPLORED.read_text(encoding="utf-8").strip(),
                f"## Settings\n\n```json\n{json.dumps(final['recipe'], indent=1)}\n```",
            ]
        )
        + "\n"
    )


def install(run: Path, control: Path | None, out: Path) -> None:
    """Copy the shipped folders and the evaluations beside them."""
    for name, source in (("vlm", run / "vlm"), ("llm", run / "llm"), ("control", control and control / "vlm")):
        if source:
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(source, out / name)
    shutil.copy(run / "evaluation.json", out / "vlm" / "evaluation.json")
    if control:
        shutil.copy(control / "evaluation.json", out / "control" / "evaluation.json")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m analyses.organism.card", description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--control", type=Path)
    parser.add_argument("--ablations", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    def read(folder: Path) -> Result:
        result: Result = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        return result

    args.out.mkdir(parents=True, exist_ok=True)
    install(args.runs[0], args.control, args.out)
    card = compose([read(r) for r in args.runs], args.control and read(args.control), [read(r) for r in args.ablations])
    (args.out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(args.out / "MODEL_CARD.md")


if __name__ == "__main__":
    main()
