"""The model's card: where its parts come from, how it was trained, and how well it names pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analyses.pretrained import tasks
from analyses.pretrained.graft import Recipe
from analyses.pretrained.pictures import HELD_OUT
from analyses.pretrained.styles import STYLES
from xmi.model.pretrained import LANGUAGE, PATCHES, TOWER

HEAD = """# The pretrained model

An ordinary `FastVlmForConditionalGeneration`: SmolLM2-135M-Instruct as it comes out of its package, a MobileNetV2
trained on ImageNet as it comes out of its package, and between them a projector of two layers ({parameters:,}
parameters), the only part that is trained here, to name pictures of {entities} entities. No task is trained, and no
task vector: the language model is frozen, so on text this VLM is its base LLM, bit by bit. A picture has {patches}
tokens.

`python -m analyses.pretrained` makes it and this page; every number below is written by that command.
"""


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows))


def sources() -> str:
    """Returns the table of packages."""
    used = {STYLES[style].name: "held out" if style in HELD_OUT else "trained on" for style in STYLES}
    return table(
        ("package", "version", "what is taken", "by", "licence", "use"),
        [
            (f"`{p.name}` ({p.index})", p.version, p.holds, p.source, p.licence, used.get(p.name, "weights"))
            for p in (LANGUAGE, TOWER, *STYLES.values())
        ],
    )


def named(rows: list[dict[str, Any]]) -> str:
    """Returns the table of how well pictures are named."""
    return table(
        ("style", "trained on", "pictures", "named rightly, 95 % interval", "some of the wrong names"),
        [
            (
                row["style"], "yes" if row["trained"] else "no", row["n"],
                f"{row['right']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                ", ".join(f"{name}: {text}" for name, text in [*row["wrong"].items()][:4]).replace("|", " "),
            )
            for row in rows
        ],
    )  # fmt: skip


def write(out: Path, settings: Recipe, rows: list[dict[str, Any]], facts: dict[str, Any]) -> Path:
    """Writes `CARD.md` and returns it.

    Args:
        out: Folder of the run.
        settings: How the projector was trained.
        rows: What `naming` returned.
        facts: Numbers of the run: parameters, entities, seconds of training.
    """
    count = [
        (spec["name"], spec["family"], len(tasks.items(spec)), spec["instruction"], spec["note"])
        for spec in tasks.specs()
    ]
    asked = (
        "`<image>` and a line, *This is a picture of*: right if the answer is the name with its article and no more."
    )
    text = "\n\n".join(
        [
            HEAD.format(patches=PATCHES, **facts).strip(),
            "## Sources",
            sources(),
            f"## Naming\n\n{asked}",
            named(rows),
            "## Tasks",
            table(("task", "family", "entities", "instruction", "note"), count),
            f"## Recipe\n\nTrained in {facts['seconds'] / 60:.0f} minutes.\n\n"
            f"```json\n{json.dumps(asdict(settings), indent=1)}\n```",
        ]
    )
    file = out / "CARD.md"
    file.write_text(text + "\n", encoding="utf-8")
    return file
