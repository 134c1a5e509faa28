"""One page over many run folders: their models, each number linked to the part of its run's report that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmi.errors import RunError
from xmi.report.atlas.accuracies import accuracies, matrices
from xmi.report.atlas.figures import panels
from xmi.report.atlas.measures import changes, geometry
from xmi.report.atlas.models import studied
from xmi.report.page import assets, figures_of, template, write
from xmi.study.results import StudyResults


def atlas_page(runs: Sequence[str | Path], path: str | Path) -> Path:
    """Writes one HTML file over many run folders that asks nothing of the network.

    It shows accuracies, transfer matrices, phases and geometry of all models, by relative depth where they have layers;
    tables can be sorted, and each number leads to the part of its run's report that shows it. Runs that cannot be read
    are named on the page with the reason, and so are runs of other tasks than the first.

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
    models = studied(found, path)
    drawn = panels(models)
    context: dict[str, Any] = {
        "models": models,
        "runs": len(found),
        "tasks": found[0].tasks,
        "others": [(str(r.path), r.tasks) for r in found if set(r.tasks) != set(found[0].tasks)],
        "left_out": left_out,
        "accuracies": accuracies(models),
        "matrices": matrices(models),
        "changes": changes(models),
        "geometry": geometry(models),
        "panels": drawn,
        "figures": figures_of(drawn),
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
