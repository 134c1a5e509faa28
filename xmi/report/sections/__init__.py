"""What the report shows: one module per measurement, with its panels and its sentences.

To add one, write a module with a `PART` (see `section.py`) and name it here.
"""

from __future__ import annotations

from xmi.report.panels import Panel, drawn
from xmi.report.sections import alignment, base_similarity, ensembling, geometry, overriding, phases, transfer
from xmi.report.sections.section import Finding
from xmi.study.results import StudyResults

SECTIONS = (
    (
        "phases",
        "Phases",
        "On its way to the answer the last token passes through what it is asked about and what it is asked to do.",
    ),
    (
        "geometry",
        "Geometry",
        "Vectors of one task lie together, whichever way the task was specified: or they do not.",
    ),
    ("transfer", "Transfer", "A likeness proves nothing; writing a vector into another run does."),
)
"""Id, title and first sentence of the sections that measurements stand in."""

PARTS = (
    phases.PART,
    geometry.PART,
    transfer.PART,
    ensembling.PART,
    overriding.PART,
    base_similarity.PART,
    alignment.PART,
)
"""In the order of each section."""


def takeaways(results: StudyResults) -> dict[str, list[Finding]]:
    """What was found, by section."""
    return {id: [f for part in PARTS if part.section == id for f in part.says(results)] for id, *_ in SECTIONS}


def panels(results: StudyResults) -> list[Panel]:
    """All panels, in the order of the parts; a measurement that the study left out is left out here too."""
    return [panel for part in PARTS for panel in drawn(results, part.section, part.panels)]
