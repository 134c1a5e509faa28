"""What the report shows: one module per measurement, with its panels and its sentences.

To add one, write a module with a `PART` (see `section.py`): it stands after those that are named in `ORDER`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from xmi.report.panels import Panel, drawn
from xmi.report.sections.section import Finding, Part
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

ORDER = ("phases", "geometry", "transfer", "ensembling", "overriding", "base_similarity", "alignment")
"""The first modules, in the order in which they stand in their sections; others follow by name."""

_OTHERS = sorted({module.name for module in iter_modules(__path__)} - {*ORDER, "section"})
PARTS: tuple[Part, ...] = tuple(import_module(f"{__name__}.{name}").PART for name in (*ORDER, *_OTHERS))
"""In the order of each section."""


def takeaways(results: StudyResults) -> dict[str, list[Finding]]:
    """What was found, by section."""
    return {id: [f for part in PARTS if part.section == id for f in part.says(results)] for id, *_ in SECTIONS}


def panels(results: StudyResults) -> list[Panel]:
    """All panels, in the order of the parts; a measurement that the study left out is left out here too."""
    return [panel for part in PARTS for panel in drawn(results, part.section, part.panels)]
