"""The four verdicts on top of the report, each by one rule, which the page states beside it.

A verdict is of the study's first model and of the numbers that the sections show; a second model stands beside it in
the figures. What was not measured, and what too few items cannot tell, is said as plainly as a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from xmi.errors import RunError
from xmi.measure import Proportion
from xmi.measure.judgement import LEAST, judged
from xmi.measure.summaries import cell
from xmi.names import NO_CONTEXT, TASKLESS, label_parts, modality_of, without_control
from xmi.numerals import defined
from xmi.numerals import percent as share
from xmi.report.sections.geometry import clustered
from xmi.report.sections.transfer import WAYS
from xmi.report.wording import layers, runs
from xmi.study.results import StudyResults

MARKS = {"yes": "✓", "in part": "◐", "no": "✗", "not shown": "○", "not known": "?", "not measured": "-"}
"""What a verdict may be, and its mark."""

Judgement = tuple[str, str]
"""One of `MARKS`, and the sentence that says with which numbers."""


@dataclass(frozen=True)
class Verdict:
    """A verdict as the page shows it.

    Attributes:
        name: What it is on.
        section: Id of the section that it leads to.
        state: One of `MARKS`.
        said: With which numbers.
        rule: By which rule.
    """

    name: str
    section: str
    state: str
    said: str
    rule: str

    @property
    def mark(self) -> str:
        """The sign of its state."""
        return MARKS[self.state]


def verdicts(results: StudyResults) -> list[Verdict]:
    """Judges the study's first model.

    Returns:
        A verdict each on phases, geometry, transfer and controls; `not measured` where the study left it out.
    """
    found = []
    for name, section, judge, rule in _RULES:
        try:
            state, said = judge(results, results.models[0])
        except RunError:
            state, said = "not measured", "This study did not measure it."
        found.append(Verdict(name, section, state, said, rule))
    return found


def _phases(results: StudyResults, model: str) -> Judgement:
    pooled = {k: p for k, p in results.phases(model).items() if not label_parts(k)[0]}
    known = {k: p for k, p in pooled.items() if p.items >= LEAST}
    if not known:
        return "not known", "Too few items to tell."
    leads = [k for k, p in known.items() if "task" in p.leading()]
    said = f"The task word leads at some layer in {len(leads)} of {len(known)} specifications."
    return _counted(len(leads), len(known)), said


def _geometry(results: StudyResults, model: str) -> Judgement:
    curve = results.silhouette(model)
    if not np.isfinite(curve.by_task - curve.by_modality).any():
        return "not known", "One of the two has no clusters to compare."
    where = runs([str(i) for i in curve.layers], clustered(curve).tolist())
    at = layers(where) if where else "no layer"
    return "yes" if where else "not shown", f"Prompts cluster by task more than by modality at {at}."


def _transfer(results: StudyResults, model: str) -> Judgement:
    table, kinds, said = results.summary(model), [], []
    for source, target in WAYS:
        patch, clean = cell(table, "patch", source, target), cell(table, NO_CONTEXT, None, target)
        if patch is None:
            continue
        kinds.append(judged(patch, clean))
        against = "" if clean is None else f" against {share(clean.mean)} without context"
        said.append(f"{modality_of(source)} examples to {target} queries: {share(patch.mean)}{against}")
    if not kinds:
        raise RunError("The study holds no cross-modal transfer.")
    return _of_kinds(kinds), f"{'; '.join(said).capitalize()}."


def _of_kinds(kinds: Sequence[str]) -> str:
    if all(kind in ("not known", "alone") for kind in kinds):
        return "not known"
    if all(kind == "works" for kind in kinds):
        return "yes"
    if any(kind in ("works", "partly") for kind in kinds):
        return "in part"
    return "no" if all(kind in ("no", "harms") for kind in kinds) else "not shown"


def _controls(results: StudyResults, model: str) -> Judgement:
    table = results.summary(model)
    beaten, all_of, held = 0, 0, []
    for source, target in WAYS:
        patch = cell(table, "patch", source, target)
        rivals = {without_control(c): cell(table, "patch", c, target) for c in TASKLESS}
        rivals[NO_CONTEXT] = cell(table, NO_CONTEXT, None, target)
        for name, rival in rivals.items():
            if patch is None or rival is None:
                continue
            if min(patch.n, rival.n) < LEAST or not _defined(patch, rival):
                return "not known", "Too few items to tell."
            all_of += 1
            if patch.low > rival.high:
                beaten += 1
            else:
                held.append(f"{name}, {target} queries")
    if not all_of:
        raise RunError("The study holds no controls.")
    rest = f"; not of {', '.join(held)}" if held else ""
    said = f"The patch's interval lies above those of {beaten} of {all_of} controls{rest}."
    return _counted(beaten, all_of), said


def _counted(found: int, of: int) -> str:
    return "yes" if found == of else "in part" if found else "not shown"


def _defined(*values: Proportion) -> bool:
    return all(defined(x) for v in values for x in (v.low, v.high))


_RULES: tuple[tuple[str, str, Callable[[StudyResults, str], Judgement], str], ...] = (
    (
        "Phases",
        "phases",
        _phases,
        "Yes, if for every specification the task word's probability is above those of input, answer and the task's "
        "other labels at some layer, the 95 % interval of the difference above zero; in part, if for some. "
        "Specifications with fewer than 5 items do not count.",
    ),
    (
        "Geometry",
        "geometry",
        _geometry,
        "Yes, if at some layer the silhouette of single prompts by task is above that by modality and the clusters of "
        "tasks pass their permutation test (p < 0.05 after correction).",
    ),
    (
        "Transfer",
        "transfer",
        _transfer,
        "Yes, if in both directions (text examples to image queries, image examples to text queries) the patch's 95 % "
        "interval lies above that of no context and above 50 %; in part, if it lies above no context in one of them, "
        "or below 50 %; no, if the intervals leave no room for an effect of 20 points.",
    ),
    (
        "Controls",
        "controls",
        _controls,
        "Yes, if in both directions the patch's 95 % interval lies above those of no context and of the controls that "
        "hold nothing of the task (random vector, another task, unrelated slot); in part, if above some of them. A "
        "mean over tasks and shuffled labels are not among them: they may hold the task.",
    ),
)
