"""The table of model families in the docs, made by running every claim on every family of the zoo.

python -m tests.zoo.matrix docs/models.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import xmi
from tests.zoo.claims import CLAIMS
from tests.zoo.families import FAMILIES
from tests.zoo.family import Family
from tests.zoo.oracle import family_vlm, prompts_for

SNIPPET = Path(__file__).resolve().parents[2] / "docs" / "examples" / "any_model.py"
IMAGES = {
    "many": "any number",
    "alike": "any number, the same in a batch",
    "one": "one",
    "first": "one, first",
    "none": "-",
}


@dataclass(frozen=True)
class Row:
    """What came out for one family."""

    family: Family
    state: str
    remarks: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        f = self.family
        return (f.name, f"`{f.model_type}`", IMAGES[f.images], self.state, "; ".join(self.remarks))


def state_of(family: Family) -> str:
    """The state that the tests hold a family to."""
    return "refused" if family.refused else "partial" if family.partial else "verified"


def run(family: Family) -> Row:
    """Runs the claims; raises AssertionError if something differs from what the zoo says of the family."""
    if family.refused:
        try:
            family_vlm(family).encode(prompts_for(family.images))
        except xmi.XmiError as error:
            return Row(family, "refused", (_first(str(error)),))
        raise AssertionError(f"{family.name} is not refused")
    vlm, prompts = family_vlm(family), prompts_for(family.images)
    for name, claim in CLAIMS.items():
        try:
            claim(vlm, prompts)
        except (xmi.XmiError, AssertionError) as error:
            if name not in family.partial:
                raise AssertionError(f"{family.name}, {name}: {error}") from error
        else:
            if name in family.partial:
                raise AssertionError(f"{family.name}: {name} holds, although the zoo says that it does not")
    said = vlm.report.lines()
    remarks = [family.note] if family.note else []
    remarks += [f"**{claim}** does not hold: {reason}" for claim, reason in family.partial.items()]
    remarks += [f"patched runs do not share a forward: {family.unpacked}"] if family.unpacked else []
    remarks += [line.removeprefix("deviation: ") for line in said if line.startswith("deviation: ")]
    remarks += [line for line in said if line.startswith(("no ", "note: "))]
    return Row(family, state_of(family), tuple(remarks))


def _first(message: str) -> str:
    """The first sentence, without the class that the test happens to build."""
    return message.strip().splitlines()[0].split(". ")[0].rstrip(".")


def untried() -> list[str]:
    """Image-text-to-text families of transformers that the zoo does not have."""
    have = {f.model_type for f in FAMILIES}
    return sorted(t for t in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if t not in have)


def page(rows: list[Row]) -> str:
    """The docs page."""
    libraries = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in ("torch", "transformers", "nnsight"))
    claims = "\n".join(f"- **{name}**: {claim.__doc__.strip()}" for name, claim in CLAIMS.items() if claim.__doc__)
    counts = {s: sum(r.state == s for r in rows) for s in ("verified", "partial", "refused")}
    parts = [
        HEAD.format(libraries=libraries, claims=claims, snippet=SNIPPET.read_text(encoding="utf-8"), **counts),
        _table("Vision-language models", [r for r in rows if r.family.images != "none"]),
        _table("Language models", [r for r in rows if r.family.images == "none"]),
        f"## Untried\n\nFamilies that transformers {version('transformers')} has and the zoo has not. The same rule "
        "looks for their parts and the self-check judges what it finds; `xmi check MODEL` tells.\n\n"
        + ", ".join(f"`{t}`" for t in untried())
        + "\n",
    ]
    return "\n".join(parts)


def _table(title: str, rows: list[Row]) -> str:
    titles = ("family", "type", "images in a prompt", "state", "what to know")
    lines = [f"## {title}", "", f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in row.cells())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


HEAD = """# Models

<!-- Written by `python -m tests.zoo.matrix docs/models.md`; do not edit. -->

xmi has no list of supported models. It finds a model's parts by its structure and by what they compute, and a
self-check at load proves the finding or refuses the model (`xmi check MODEL` prints it). This page says for which
families that was tried: on tiny random models of the real architecture, configuration and processor classes, in float32
on a CPU, with {libraries}. Real weights differ in size and values, not in code.

{verified} families are **verified** (every claim below holds), {partial} **partial** (all but the named ones), and
{refused} **refused** (with the reason xmi gives).

{claims}

Exactly means bit by bit; where a batch, a padding or a cut of the kept positions changes the order of additions, 1e-4
or less is allowed. The table is made by `python -m tests.zoo.matrix docs/models.md`, which runs all of it.

The same lines run unchanged on every verified and partial family (`tests/zoo/test_families.py` runs them):

```python
{snippet}```
"""


def main(path: str) -> None:
    """Writes the page, with progress on standard error."""
    rows = []
    for family in FAMILIES:
        print(f"{family.name} ...", file=sys.stderr, flush=True)
        rows.append(run(family))
    Path(path).write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
