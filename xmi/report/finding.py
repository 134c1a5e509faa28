"""The one figure of the report's first screen; its one sentence is the study's `headline`."""

from __future__ import annotations

from xmi import plot
from xmi.names import modality_of
from xmi.report.panels import Panel, as_json
from xmi.study.headline import main_patch
from xmi.study.results import StudyResults

_NOTE = "Right answers to the same held-out queries, mean over tasks, with 95 % Wilson intervals over n items."


def glance_panel(results: StudyResults) -> list[Panel]:
    """The figure of the first screen, of all models together; none where nothing was patched."""
    tables = {model: results.summary(model) for model in results.models}
    way = main_patch(tables[results.models[0]])
    if way is None:
        return []
    source, target = way
    kind = modality_of(source)
    title = f"From {f'{kind} examples' if kind else source} to {target} queries"
    figure = plot.glance(tables, source=source, target=target, title=title)
    shown = ((" and ".join(results.models), as_json(figure)),)
    return [Panel("glance", "finding", title, _NOTE, (("", shown),))]
