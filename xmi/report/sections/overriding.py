"""One task in the prompt, another one patched in: whose task is done."""

from __future__ import annotations

from xmi import plot
from xmi.measure.judgement import LEAST, too_few
from xmi.names import RANDOM
from xmi.numerals import defined
from xmi.report.panels import Entry
from xmi.report.sections.section import Finding, Part, for_each
from xmi.report.wording import gain, percent
from xmi.study.results import StudyResults


def takeaways(results: StudyResults) -> list[Finding]:
    """Whose task is done when two compete."""

    def wins(model: str) -> str:
        result = results.overriding(model)
        patch, told, random = (result.share("patched", m) for m in ("patch", "system prompt", RANDOM))
        if patch.n < LEAST:
            verdict = f": {too_few(patch.n)}"
        else:
            row = result.gain().set_index("against").loc["system prompt"]
            verdict = f" ({gain(row.gain, row.low, row.high)} by the patch)" if defined(row.low) else ""
        return (
            f"With one task in the prompt and another patched in after layer {result.best_layer}, the patched task is "
            f"answered in {percent(patch)} of cases, with its instruction as a system prompt in {percent(told)}, with "
            f"a random vector in {percent(random)}{verdict}."
        )

    return for_each(results, wins)


PART = Part(
    "transfer",
    (
        Entry(
            "overriding",
            "One task in the prompt, another patched in",
            "Text examples of one task stand in the prompt, and a vector of another task that shares its inputs is "
            "patched in after each layer: whose label is answered? The bold line is the patched task. Read it against "
            "the levels: how often the same is answered without a patch, and with the task's instruction put first; "
            "and against a random vector.",
            {"": lambda results, model: plot.overriding(results.overriding(model))},
        ),
    ),
    takeaways,
)
