"""The layer-wise similarity report: one HTML page about geometry alone, from a stored study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from xmi.report.page import assets, figures_of, template, write
from xmi.report.panels import Panel, drawn
from xmi.report.sections import alignment, geometry
from xmi.report.sections.alignment import alignment_tables
from xmi.study.results import StudyResults

SECTIONS = (
    ("alignment", "Alignment", "Do text and image prompts of one task lie together, and have they one shape?"),
    ("similarity", "Similarity", "Task vectors, each task and specification apart: one task against the others."),
    ("clusters", "Clusters", "Single prompts in the plane, and whether they cluster by task or by modality."),
)
_PLACES = {"similarity": "similarity", "projection": "clusters", "silhouette": "clusters"}


def similarity_panels(results: StudyResults) -> list[Panel]:
    """Returns the panels of the page, each in its section; a measurement that the study left out is left out here."""
    known = [replace(p, section=_PLACES[p.name]) for p in drawn(results, "geometry", geometry.PART.panels)]
    return [*drawn(results, "alignment", alignment.PART.panels), *known]


def similarity_page(results: StudyResults, path: str | Path) -> Path:
    """Writes the layer-wise similarity report: one HTML file that asks nothing of the network.

    Args:
        results: The finished study.
        path: Where to write the page; parent folders are made.

    Returns:
        The path of the page.

    Raises:
        RunError: The page cannot be written.
    """
    found = similarity_panels(results)
    context: dict[str, Any] = {
        "models": results.models,
        "tasks": results.tasks,
        "sections": SECTIONS,
        "navigation": [*(s[:2] for s in SECTIONS), ("provenance", "Provenance")],
        "takeaways": {
            "alignment": alignment.PART.says(results),
            "similarity": [],
            "clusters": geometry.PART.says(results),
        },
        "tables": alignment_tables(results),
        "panels": found,
        "figures": figures_of(found),
        "plan": results.study.get("plan", {}),
        "provenance": results.study.get("provenance", {}),
        **assets(),
    }
    return write(Path(path), template("similarity.html.j2").render(context))
