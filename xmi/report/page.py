"""One HTML file from a stored study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from xmi.errors import RunError
from xmi.report.drilldown import drill
from xmi.report.host import hosted
from xmi.report.panels import Panel
from xmi.report.sections import SECTIONS as MEASURED
from xmi.report.sections import panels, takeaways
from xmi.report.sections.transfer import headline
from xmi.report.tables import by_task, overview, targets
from xmi.report.wording import tasks_of
from xmi.storage import write_file
from xmi.study.results import StudyResults

MAX_BYTES = 8_000_000
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

    The page stays under 8 MB. Should the answers not fit, each list of the drill-down holds only its first ones, and
    the page says so.

    Args:
        results: The finished study.
        path: Where to write the page; parent folders are made.

    Returns:
        The path of the page.

    Raises:
        RunError: The study lacks a table, or the page cannot be written.
    """
    try:
        context = _context(results)
    except FileNotFoundError as error:
        raise RunError(f"The study in {results.path} lacks {error.filename}: run it again to complete it.") from error
    html = ""
    for limit in (None, 100, 40, 15, 5, 1, 0):
        html = template("report.html.j2").render(context, drill=drill(results, limit))
        if len(html.encode()) <= MAX_BYTES:
            break
    return write(Path(path), html)


def for_script(value: Any) -> str:
    """Returns JSON that can stand inside a script element: no string in it can close the element or open a comment."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        dumped = dumped.replace(char, f"\\u{ord(char):04x}")
    return dumped


def _context(results: StudyResults) -> dict[str, Any]:
    found, host = panels(results), hosted(results)
    return {
        "models": results.models,
        "tasks": tasks_of(results.by_task(results.models[0])),
        "targets": targets(results),
        "sections": [section for section in SECTIONS if section[0] != "host" or host],
        "host": host,
        "headline": headline(results),
        "measured": MEASURED,
        "takeaways": takeaways(results),
        "overview": overview(results),
        "by_task": by_task(results),
        "panels": found,
        "figures": figures_of(found),
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
    """Returns the figures of panels as JSON for a script element, by the ids that the panels give them."""
    return for_script(
        {
            f"{p.name}-{v}-{m}": figure
            for p in found
            for v, (_, drawn) in enumerate(p.variants)
            for m, (_, figure) in enumerate(drawn)
        }
    )


def assets() -> dict[str, str]:
    """Returns what every page carries with it: plotly, style and script."""
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return {"plotly": _plotly(), "style": style, "script": script}


@cache
def _plotly() -> str:
    source: str = get_plotlyjs()
    lines = source.replace("</script", "<\\/script").splitlines()
    return "\n".join(line for line in lines if not line.startswith("//# sourceMappingURL"))


def write(path: Path, html: str) -> Path:
    """Writes a page, so that an interrupted run leaves no half page.

    Raises:
        RunError: It cannot be written there.
    """
    return write_file(path, html, error=RunError, advice="Name a file in a folder that you may write to.")
