"""The atlas: many stored studies on one page, models below each other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xmi.errors import RunError
from xmi.measure import Phases
from xmi.names import IMAGE_ICL, INSTRUCTION, MODALITIES, NO_CONTEXT, RANDOM, TEXT_ICL, of_base
from xmi.numerals import decimal, interval
from xmi.plot import phases as phases_figure
from xmi.report.page import assets, figures_of, template, write
from xmi.report.panels import Panel
from xmi.report.wording import proportion, row_of
from xmi.study.results import StudyResults

COLUMNS = (
    (NO_CONTEXT, NO_CONTEXT, NO_CONTEXT),
    ("text examples in the prompt", "prompt", TEXT_ICL),
    ("image examples in the prompt", "prompt", IMAGE_ICL),
    ("text vector patched in", "patch", TEXT_ICL),
    ("image vector patched in", "patch", IMAGE_ICL),
    ("instruction vector patched in", "patch", INSTRUCTION),
    ("base LLM's text vector patched in", "patch", of_base(TEXT_ICL)),
    ("random vector patched in", "patch", RANDOM),
)
"""Label, method and source of the accuracies; each stands once per modality of the query."""


def atlas_page(runs: Sequence[str | Path], path: str | Path) -> Path:
    """Writes one HTML file over many run folders that asks nothing of the network.

    It holds a table of models and accuracies that can be sorted, each number linked to its run's report, and the phases
    of all models over relative depth. Runs that cannot be read are named on the page with the reason, and so are runs
    of other tasks than the first.

    Args:
        runs: Folders of finished runs.
        path: Where to write the page; links to the reports are relative to it.

    Returns:
        The path of the page.

    Raises:
        RunError: No run is given, one is given twice, none can be read, or the page cannot be written.
    """
    folders, path = [Path(run) for run in runs], Path(path)
    if not folders:
        raise RunError("An atlas needs at least one run folder: name the folders of finished runs.")
    places = [folder.resolve() for folder in folders]
    if twice := next((f for f, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise RunError(f"The run {twice} is named twice: name each run once.")
    found, left_out = _opened(folders)
    if not found:
        reasons = " ".join(reason for _, reason in left_out)
        raise RunError(f"None of the {len(folders)} runs can be read. {reasons}")
    panels = _phases(found)
    context: dict[str, Any] = {
        "rows": [row for results in found for row in _rows(results, path)],
        "columns": [(label, target) for label, _, _ in COLUMNS for target in MODALITIES],
        "runs": len(found),
        "tasks": found[0].tasks,
        "others": [(str(r.path), r.tasks) for r in found if set(r.tasks) != set(found[0].tasks)],
        "left_out": left_out,
        "panels": panels,
        "figures": figures_of(panels),
        **assets(),
    }
    return write(path, template("atlas.html.j2").render(context))


def _opened(folders: Sequence[Path]) -> tuple[list[StudyResults], list[tuple[str, str]]]:
    """The runs that can be read, and the names of the others with the reason."""
    found, left_out = [], []
    for folder in folders:
        try:
            results = StudyResults(folder)
            for model in results.models:
                results.summary(model)
            found.append(results)
        except RunError as error:
            left_out.append((str(folder), str(error)))
    return found, left_out


def _rows(results: StudyResults, page: Path) -> list[dict[str, Any]]:
    report = results.path / "report.html"
    start = page.resolve().parent
    address = quote(Path(os.path.relpath(report.resolve(), start)).as_posix()) if report.is_file() else ""
    rows = []
    for model in results.models:
        table = results.summary(model)
        cells = [_cell(row_of(table, m, source, t)) for _, m, source in COLUMNS for t in MODALITIES]
        beside = "" if model == results.models[0] else f"compared with {results.models[0]}"
        rows.append(
            {"model": model, "beside": beside, "run": str(results.path), "address": address, "cells": cells}
            | {"tasks": len(results.tasks)}
        )
    return rows


def _cell(row: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    value = proportion(row)
    return {
        "value": value.mean,
        "mean": decimal(value.mean),
        "interval": interval(value.low, value.high),
        "n": value.n,
    }


def _phases(found: Sequence[StudyResults]) -> list[Panel]:
    """The phases of each specification: one row of curves per model and run."""
    known: dict[str, list[Phases]] = {}
    for results in found:
        for model in results.models:
            for label, measured in results.phases(model).items():
                if " · " not in label:
                    named = f"{model} ({results.path})" if len(found) > 1 else model
                    known.setdefault(label, []).append(replace(measured, model=named))
    views = tuple(
        (label, (("all models", json.loads(phases_figure(parts, x="relative").to_json())),))
        for label, parts in known.items()
    )
    note = "0 is the embedding, 1 the last layer, so that models of different depth share one axis."
    return [Panel("phases", "phases", "Phases by relative depth", note, views)] if views else []
