"""Vectors of the base LLM and of the model."""

from __future__ import annotations

from functools import partial

import plotly.graph_objects as go

from xmi import plot
from xmi.report.panels import Entry
from xmi.report.sections.section import Part
from xmi.study.results import StudyResults


def _cosines(results: StudyResults, model: str, *, centred: bool) -> go.Figure:
    return plot.base_similarity(results.base_similarity(model, centred=centred))


PART = Part(
    "transfer",
    (
        Entry(
            "base_similarity",
            "Vectors of the base LLM and of the model",
            "Cosine per layer between the text ICL vectors of the model and of its base LLM: of the same task, and as "
            "the control of different tasks.",
            {"raw": partial(_cosines, centred=False), "mean removed": partial(_cosines, centred=True)},
        ),
    ),
)
