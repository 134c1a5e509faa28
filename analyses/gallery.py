"""Draws every kind of figure on the embedded model, and the page that shows each with the lines that make it.

Usage: python -m analyses.gallery [RUN]   # docs/gallery.md and docs/gallery/*.png; RUN is a study, else one is made

Needs playwright and a Chromium; XMI_CHROMIUM names its path where it is not /usr/bin/chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from analyses.common import draw, finished

RUN, PAGE = Path("runs/gallery"), Path("docs/gallery.md")

LOADED = """vlm, task = xmi.load("organism"), xmi.task("country-capital")
vectors = {m: vlm.task_vector(task.icl(m)) for m in ("text", "image")}"""
READ = 'results = xmi.StudyResults("runs/demo")  # any run folder; no model is loaded'

ON_A_MODEL = {
    "phases": ("What each layer decodes to", 'vlm.phases(task.icl("image", split="test", n=None)).figure()'),
    "similarity": (
        "Task vectors compared, layer by layer",
        'every = [xmi.task(name).icl(m) for name in xmi.task_names() for m in ("text", "image")]\n'
        "xmi.similarity([vlm.task_vector(prompts) for prompts in every]).figure()",
    ),
    "transfer": (
        "A vector patched after every layer",
        'sweep = vlm.transfer(vectors["text"], to=task.queries("image"))\nsweep.figure()',
    ),
    "reading": ("One prompt through a lens", 'vlm.lens(task.icl("image", shots=2, n=1)).figure()'),
    "decode": ("What a vector says", 'vectors["text"].decode(vlm).figure()'),
    "trajectory": ("Cross-entropy, entropy and KL divergence by layer", 'vlm.trajectory(task.icl("image")).figure()'),
    "attention": ("Where tokens look", 'vlm.pattern(task.icl("image", shots=2, n=1), layer=3).figure()'),
    "accuracies": ("Right answers, task by task", 'vlm.answers(task.icl("image", split="test", n=None)).figure()'),
}
OF_A_STUDY = {
    "glance": (
        "A study at a glance",
        "tables = {model: results.summary(model) for model in results.models}\nxmi.plot.glance(tables)",
    ),
    "summary": (
        "Accuracies of a study",
        'xmi.plot.summary(results.accuracy(model="organism", method="prompt"))',
    ),
    "comparisons": (
        "Contrasts, as paired tests",
        'table = results.comparisons("organism")\nxmi.plot.comparisons(table[table.target == "image"].head(12))',
    ),
    "boundaries": ("Where phases give way to each other", 'results.boundaries("organism").figure()'),
    "projection": ("Single prompts in two dimensions", 'results.projection("organism", "pca").figure()'),
    "silhouette": ("Do prompts cluster by task or by modality?", 'results.silhouette("organism").figure()'),
    "alignment": ("How far text and image prompts agree", 'results.alignment("organism").figure()'),
    "ensembling": ("More examples, with and without instruction", 'results.ensembling("organism").figure()'),
    "overriding": ("One task in the prompt, another patched in", 'results.overriding("organism").figure()'),
    "base_comparison": ("The model and its base LLM", 'results.base_comparison("organism").figure()'),
}


def figure_of(lines: str, given: dict[str, Any]) -> Any:
    """Runs lines of the page; returns what the last one gives."""
    *before, last = lines.splitlines()
    exec("\n".join(before), given)
    return eval(last, given)


def page() -> str:
    """The page, as Markdown."""
    parts = [
        "# Gallery\n\nEvery kind of figure, drawn on the embedded model by `python -m analyses.gallery`, and the lines "
        "that make it. In a notebook and in the report figures are interactive; `figure.write_image` and "
        "`figure.write_html` of plotly save them."
    ]
    for title, setup, figures in (("On a model", LOADED, ON_A_MODEL), ("Of a stored study", READ, OF_A_STUDY)):
        parts.append(f"## {title}\n\n```python\n{setup}\n```")
        for name, (said, lines) in figures.items():
            parts.append(f"### {said}\n\n```python\n{lines}\n```\n\n![{said}](gallery/{name}.png){{ loading=lazy }}")
    return "\n\n".join(parts) + "\n"


def main(run: Path = RUN) -> None:
    """Draws the figures and writes the page."""
    import xmi
    import xmi.plot

    folder = PAGE.with_suffix("")
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {"xmi": xmi, "results": finished(run)}
    exec(LOADED, given)
    for name, (_, lines) in (ON_A_MODEL | OF_A_STUDY).items():
        draw(figure_of(lines, given), folder / f"{name}.png", width=760)
        print(folder / f"{name}.png")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
