"""Transfer across modalities: its figures, and the finding of the study in a sentence or two."""

from __future__ import annotations

from functools import partial
from typing import Any

import plotly.graph_objects as go

from xmi import plot
from xmi.errors import RunError
from xmi.measure import Proportion
from xmi.measure.judgement import effect
from xmi.measure.summaries import cell, row_of
from xmi.names import IMAGE_ICL, NO_CONTEXT, TEXT_ICL, modality_of
from xmi.numerals import digits_that_add_up
from xmi.report.panels import Entry
from xmi.report.sections.section import Finding, Part
from xmi.report.tables import targets
from xmi.report.wording import against_clean, better, elsewhere, percent, tested
from xmi.study.results import StudyResults

WAYS = ((TEXT_ICL, "image"), (IMAGE_ICL, "text"))
"""The two directions of cross-modal transfer: specification and modality of the query."""


def headline(results: StudyResults) -> list[str]:
    """The finding in a sentence or two: cross-modal transfer against the prompt, and against the other models.

    Returns:
        Plain sentences, negatives said as plainly as positives, and what is not known as plainly as both. Two
        accuracies differ when their intervals do not overlap.
    """
    main, *others = results.models
    way = next((w for w in WAYS if _patch(results, main, w) is not None), None)
    if way is None:
        return [f"This study of {main} holds no cross-modal transfer."]
    sentences = [f"In {main}, one task {_transfer_sentence(results, main, way)}"]
    return sentences + [s for s in (_elsewhere(results, main, other, way) for other in others) if s]


def transfer_takeaways(results: StudyResults) -> list[Finding]:
    """Both directions of the cross-modal transfer, model by model."""
    return [
        (model, f"One {_transfer_sentence(results, model, way)}")
        for model in results.models
        for way in WAYS
        if _patch(results, model, way) is not None
    ]


def _patch(results: StudyResults, model: str, way: tuple[str, str]) -> Proportion | None:
    return cell(results.summary(model), "patch", *way)


def _clean(results: StudyResults, model: str, target: str) -> Proportion | None:
    return cell(results.summary(model), NO_CONTEXT, None, target)


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _transfer_sentence(results: StudyResults, model: str, way: tuple[str, str]) -> str:
    source, target = way
    patch, clean = _patch(results, model, way), _clean(results, model, target)
    prompt = cell(results.summary(model), "prompt", *way)
    if patch is None:
        return ""
    against, digits = [], 0
    if prompt is not None:
        row = _compared(results, model, way)
        digits = 0 if row is None else digits_that_add_up(patch.mean, prompt.mean, row["difference"])
        verdict = better(patch, prompt) if row is None else tested(row, digits)
        against.append(f"{percent(prompt, digits)} with the same examples as a prompt (xBase, {verdict})")
    if clean is not None:
        against.append(f"{percent(clean, digits)} without context")
    end = f", against {' and '.join(against)}." if against else "."
    kind = modality_of(source)
    return (
        f"vector read from {kind} examples and patched into {_article(target)} query {effect(patch, clean)} "
        f"{percent(patch, digits)} right{end}"
    )


def _compared(results: StudyResults, model: str, way: tuple[str, str]) -> dict[str, Any] | None:
    """The paired test of patch and prompt, where the study holds one."""
    try:
        table = results.comparisons(model)
    except RunError:
        return None
    rows = table[(table.contrast == "xPatch vs xBase") & (table.target == way[1]) & table.a.str.startswith(way[0])]
    return None if rows.empty else {str(k): v for k, v in rows.iloc[0].items()}


def _elsewhere(results: StudyResults, main: str, other: str, way: tuple[str, str]) -> str:
    here, there = _patch(results, main, way), _patch(results, other, way)
    if here is None or there is None:
        return ""
    more = against_clean(there, _clean(results, other, way[1]))
    return f"In {other}, the same patch gives {percent(there)}{more}{elsewhere(here, there, main)}"


def _transfer(results: StudyResults, model: str, target: str) -> go.Figure:
    sweep = results.transfer(model, target)
    rows = {s: row_of(results.summary(model), "patch", s, target) for s in sweep.sources}
    chosen = {s: int(row["layer"]) for s, row in rows.items() if row and row["layer"] in sweep.layers}
    majority = row_of(results.summary(model), "majority", None, target)
    always = float(majority["accuracy"]) if majority else None
    prompt = next((cell(results.summary(model), "prompt", s, target) for s, t in WAYS if t == target), None)
    return plot.transfer(
        sweep, chosen=chosen, always=always, prompt=None if prompt is None else prompt.mean,
        title=f"Task vectors patched into {target} queries",
    )  # fmt: skip


def _contrasts(results: StudyResults, model: str, *, target: str) -> go.Figure:
    if target not in targets(results):
        raise RunError(f"The study asked no {target} queries.")
    return plot.comparisons(results.comparisons(model).loc[lambda table: table.target == target])


_NOTE = (
    "Accuracy when a task vector overwrites the residual stream after one layer, at the last token of a query without "
    "context. Bands and hover texts give 95 % Wilson intervals over items; a large marker is the layer chosen on "
    "validation items. The grey band spans the controls that hold nothing of the task (no context, random vector, "
    "another task, unrelated slot); the level is that of examples of the other modality as a prompt (xBase). A click "
    "on an entry of the legend draws it, too."
)

PART = Part(
    "transfer",
    (
        Entry("transfer-image", "Vectors patched into image queries", _NOTE, {"": partial(_transfer, target="image")}),
        Entry("transfer-text", "Vectors patched into text queries", _NOTE, {"": partial(_transfer, target="text")}),
        Entry(
            "comparisons",
            "Methods compared on the same items",
            "The difference of accuracy between two methods that were asked the same test items, with its 95 % "
            "bootstrap interval; a filled marker holds after Holm's correction over all contrasts (paired permutation "
            "test). Each source is patched after the layer that its validation items chose, a control where the source "
            "is.",
            {f"{t} queries": partial(_contrasts, target=t) for t in ("image", "text")},
        ),
    ),
    transfer_takeaways,
)
