"""The first screen of the report: its one sentence, and its one figure."""

from __future__ import annotations

from xmi import plot
from xmi.measure.summaries import cell
from xmi.names import NO_CONTEXT, modality_of
from xmi.numerals import percent
from xmi.plot.glance import rungs
from xmi.report.panels import Panel, as_json
from xmi.report.sections.transfer import WAYS
from xmi.report.wording import effect
from xmi.study.results import StudyResults

_NOTE = "Right answers to the same held-out queries, mean over tasks, with 95 % Wilson intervals over n items."


def way_of(results: StudyResults) -> tuple[str, str] | None:
    """Returns the direction that the first screen is about: source and modality of the query; None without transfer."""
    table = results.summary(results.models[0])
    return next((way for way in WAYS if cell(table, "patch", *way) is not None), None)


def sentence(results: StudyResults) -> str:
    """The finding in one sentence, with the means alone; `headline` says it with intervals and tests."""
    main, *others = results.models
    way = way_of(results)
    if way is None:
        return f"This study of {main} holds no cross-modal transfer."
    source, target = way
    found = rungs(results.summary(main), source, target)
    patch, clean = found["patch"], found.get(NO_CONTEXT)
    against = [f"{percent(found['prompt'].mean)} with the examples as a prompt"] if "prompt" in found else []
    against += [f"{percent(clean.mean)} without context"] if clean is not None else []
    there = {other: cell(results.summary(other), "patch", source, target) for other in others}
    against += [f"{percent(value.mean)} in {other}" for other, value in there.items() if value is not None]
    *most, last = against or [""]
    end = f", against {', '.join(most)}{' and ' if most else ''}{last}" if last else ""
    return (
        f"In {main}, one vector read from {modality_of(source)} examples and patched into {target} queries "
        f"{effect(patch, clean)} {percent(patch.mean)} right{end}."
    )


def glance_panel(results: StudyResults) -> list[Panel]:
    """The figure of the first screen, of all models together; none without cross-modal transfer."""
    way = way_of(results)
    if way is None:
        return []
    source, target = way
    title = f"From {modality_of(source)} examples to {target} queries"
    figure = plot.glance({m: results.summary(m) for m in results.models}, source=source, target=target, title=title)
    shown = ((" and ".join(results.models), as_json(figure)),)
    return [Panel("glance", "finding", title, _NOTE, (("", shown),))]
