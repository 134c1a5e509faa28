"""All findings on one page: runs the seven scripts on one study and writes docs/findings.md with what they return.

Usage::

    python -m analyses.findings                      # studies the embedded model where runs/findings is not there yet
    python -m analyses.findings --run runs/llava --out runs/llava/findings     # any finished study

What a claim and its test are stands in the docstring of each script; every number and verdict on the page is computed
from the run.
"""

from __future__ import annotations

import inspect
from collections import Counter
from importlib import import_module
from pathlib import Path

import xmi
from analyses.common import FAILS, HOLDS, MISSING, OPEN, Finding, finished, options, shown
from xmi.study import StudyResults

NAMES = (
    "phases", "alignment", "transfer", "llm_to_vlm", "instructions_and_ensembles", "overriding", "controls",
)  # fmt: skip

HEAD = """# Findings

What the paper claims (Luo, Darrell and Bar, "Vision-Language Models Create Cross-Modal Task Representations", ICML
2025), and what came out on {model}: {tasks} tasks, {shots} examples a prompt, seeds {seeds}, {score} score.

`python -m analyses.findings` writes this page from one run (`xmi run {command}`); each section
is a script in `analyses/`, and the numbers beside the figure are its table.

{caveat}**How a claim is judged.** Each row sets two numbers against each other, *first* and *second*. The claim *holds*
if the 95 % interval of their difference lies above zero; it *does not hold* if it lies below; in between the two
*inconclusive*. Where the claim is that two numbers agree within 0.1, it holds if the interval lies within 0.1
of zero and does not if it lies outside. Rows are not corrected for their number: of twenty true nulls one may come out.
`n` counts independent items (or tasks, prompts, queries), never answers to the same one.
"""

OUTCOME = "**What came out** on the embedded model"
"""Begins the part of a docstring that shows the rows, as `python -m analyses.<name>` prints them."""

CAVEAT = """!!! warning "A made organism"
    The embedded model was trained from scratch so that task vectors arise in it, partly by design
    ([model card](model-card.md)), and its prompts are nearly perfect. What holds here shows that the tools find what is
    there. It says nothing about large models, and what does not hold here does not count against the paper.

"""


def collect(results: StudyResults) -> list[Finding]:
    """Runs the scripts, in the order of `NAMES`; what the study did not measure is left out, and said so."""
    found = []
    for name in NAMES:
        try:
            found.append(import_module(f"analyses.{name}").finding(results))
        except xmi.RunError as error:
            print(f"{name}: left out. {error}")
    return found


def page(findings: list[Finding], results: StudyResults, *, figures: str) -> str:
    """Assembles the page.

    Args:
        findings: What the scripts returned.
        results: The study.
        figures: Folder of the figures, relative to the page.
    """
    plan = results.study["plan"]
    parts = [
        HEAD.format(
            model=f"`{results.models[0]}`", tasks=len(results.tasks), shots=plan["shots"],
            seeds=", ".join(map(str, plan["seeds"])), score=f"`{plan['score']}`", command=command(plan),
            caveat=CAVEAT if plan["model"] == "organism" else "",
        )
    ]  # fmt: skip
    for found in findings:
        title, said, remark = parted(found.text)
        parts += [f"## {title}", said, f"![{title}]({figures}/{found.name}.png)"]
        parts += [table(shown(found.rows)), f"{counted(found).capitalize()} (`python -m analyses.{found.name}`)."]
        parts += [remark] if plan["model"] == "organism" else []
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def parted(text: str) -> tuple[str, str, str]:
    """A script's docstring as title, claim and method, and the remark below the table that it shows."""
    title, _, body = inspect.cleandoc(text).partition("\n")
    said, _, outcome = body.partition(OUTCOME)
    return title.rstrip("."), said.strip(), outcome.partition("\n\n")[2].partition("\n\n")[2].strip()


def counted(found: Finding) -> str:
    """How many of a finding's claims have which verdict, as words."""
    counts = Counter(found.rows.verdict)
    return ", ".join(f"{verdict}: {counts[verdict]}" for verdict in (HOLDS, FAILS, OPEN, MISSING) if counts[verdict])


def table(cells: list[list[str]]) -> str:
    """A table in Markdown; its first line holds the headings, and verdicts are bold."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    body = [line.replace("| ", "| **", 1).replace(" |", "** |", 1) for line in lines[1:]]
    return "\n".join([lines[0], "| " + " | ".join(["---"] * len(cells[0])) + " |", *body])


def command(plan: dict[str, object]) -> str:
    """The arguments of `xmi run` that name a study's models."""
    return " ".join([str(plan["model"]), *(f"--{key} {plan[key]}" for key in ("base", "control") if plan[key])])


def main() -> None:
    """Writes tables, figures and the page, which lies beside their folder and has its name."""
    asked = options(__doc__)
    results = finished(asked.run)
    findings = collect(results)
    for found in findings:
        found.write(asked.out, picture=asked.picture)
        print(f"{found.name}: {counted(found)}")
    target: Path = asked.out.with_suffix(".md")
    target.write_text(page(findings, results, figures=asked.out.name), encoding="utf-8")


if __name__ == "__main__":
    main()
