"""Examples averaged into a vector, with and without the instruction."""

from __future__ import annotations

from functools import partial

import plotly.graph_objects as go

from xmi import plot
from xmi.report.panels import Entry
from xmi.report.sections.section import Finding, Part, for_each
from xmi.report.wording import adds
from xmi.study.results import StudyResults


def takeaways(results: StudyResults) -> list[Finding]:
    """What the instruction adds to examples."""

    def added(model: str) -> str:
        curve = results.ensembling(model, "image")
        row = curve.gain().iloc[0]
        return (
            f"With {int(row.examples)} text example{'s' if row.examples > 1 else ''} the instruction's vector "
            f"{adds(row.gain, row.low, row.high, int(row.n))} on image queries."
        )

    return for_each(results, added)


def _curve(results: StudyResults, model: str, *, target: str) -> go.Figure:
    return plot.ensemble_curve(results.ensembling(model, target))


PART = Part(
    "transfer",
    (
        Entry(
            "ensembling",
            "Examples, with and without the instruction",
            "Accuracy of a vector averaged over more and more one-example prompts, alone and averaged with the "
            "instruction's vector, after one layer chosen on validation items.",
            {f"{t} queries": partial(_curve, target=t) for t in ("image", "text")},
        ),
    ),
    takeaways,
)
