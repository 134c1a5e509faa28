"""One HTML file from a stored study."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from xmi.errors import RunError
from xmi.report.drilldown import drill
from xmi.report.finding import glance_panel
from xmi.report.host import hosted
from xmi.report.packing import packed, packed_json
from xmi.report.panels import Panel
from xmi.report.sections import SECTIONS as MEASURED
from xmi.report.sections import panels, takeaways
from xmi.report.sections.transfer import headline
from xmi.report.tables import by_task, overview, stored, targets
from xmi.report.verdicts import verdicts
from xmi.report.wording import tasks_of
from xmi.storage import write_file
from xmi.study.results import StudyResults

MAX_BYTES = 8_000_000
MARKUP = 3000
"""Bytes that are kept for the elements around the answers."""
ANSWERS = "<!-- answers -->"
"""Where the answers go, once it is known how long the rest is; in no string of a study, since those are escaped."""
ASSETS = Path(__file__).parent / "assets"
SECTIONS = (
    ("finding", "Finding"),
    *((id, title) for id, title, _ in MEASURED),
    ("prompts", "Prompts"),
    ("host", "Host"),
    ("provenance", "Provenance"),
)
"""Id and title; the host's is left out of studies that ran here."""


def render(results: StudyResults, path: str | Path) -> Path:
    """Writes the report of a study: one HTML file that asks nothing of the network.

    The page stays under 8 MB, as long as its figures do. Should the answers not fit, each list of the drill-down holds
    only its first ones, and the page says so.

    Args:
        results: The finished study.
        path: Where to write the page; parent folders are made.

    Returns:
        The path of the page.

    Raises:
        RunError: The study lacks a table, or the page cannot be written.
    """
    try:
        with _no_garbage():
            context = _context(results)
    except FileNotFoundError as error:
        raise RunError(f"The study in {results.path} lacks {error.filename}: run it again to complete it.") from error
    lists = drill(results)
    before, after = template("report.html.j2").render(context, drill=lists).split(ANSWERS)
    room = MAX_BYTES - MARKUP - len(before.encode()) - len(after.encode())
    answers = template("answers.html.j2").render(answers=lists.blocks.within(room, results.path / "images"))
    return write(Path(path), f"{before}{answers}{after}")


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Spares looking for garbage among the millions of numbers that figures hold, a seventh of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _context(results: StudyResults) -> dict[str, Any]:
    found, host = [*glance_panel(results), *panels(results)], hosted(results)
    return {
        "models": results.models,
        "tasks": tasks_of(results.by_task(results.models[0])),
        "targets": targets(results),
        "sections": [section for section in SECTIONS if section[0] != "host" or host],
        "host": host,
        "sentence": results.headline,
        "verdicts": verdicts(results),
        "headline": headline(results),
        "measured": MEASURED,
        "takeaways": takeaways(results),
        "overview": overview(results),
        "by_task": by_task(results),
        "panels": found,
        "figures": figures_of(found),
        "tables": packed_json(stored(results)),
        "plan": results.study.get("plan", {}),
        "provenance": results.study.get("provenance", {}),
        **assets(),
    }


@cache
def template(name: str) -> Any:
    """Returns a page's template; what it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def figures_of(found: Sequence[Panel]) -> str:
    """Returns the figures of panels, packed, by the ids that the panels give them."""
    return packed_json(
        {
            f"{p.name}-{v}-{m}": figure
            for p in found
            for v, (_, drawn) in enumerate(p.variants)
            for m, (_, figure) in enumerate(drawn)
        }
    )


def assets() -> dict[str, str]:
    """Returns what every page carries with it: plotly (packed), style and script."""
    names = ("report.css", "report.js", "downloads.js")
    style, *scripts = ((ASSETS / name).read_text(encoding="utf-8") for name in names)
    return {"plotly": _plotly(), "style": style, "script": "\n".join(scripts)}


@cache
def _plotly() -> str:
    lines = get_plotlyjs().splitlines()
    return packed("\n".join(line for line in lines if not line.startswith("//# sourceMappingURL")).encode())


def write(path: Path, html: str) -> Path:
    """Writes a page, so that an interrupted run leaves no half page.

    Raises:
        RunError: It cannot be written there.
    """
    return write_file(path, html, error=RunError, advice="Name a file in a folder that you may write to.")
