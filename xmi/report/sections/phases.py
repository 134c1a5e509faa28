"""The phases: what the last token decodes to, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xmi import plot
from xmi.measure import Phases
from xmi.measure.judgement import LEAST, too_few
from xmi.names import label_parts
from xmi.numerals import percent as share
from xmi.report.panels import Entry
from xmi.report.sections.section import Finding, Part, for_each
from xmi.report.wording import layers, runs
from xmi.study.results import StudyResults


def phase_takeaways(results: StudyResults) -> list[Finding]:
    """What leads at which layers, by specification: the task word, or labels of the task."""
    return for_each(
        results,
        lambda model: phase_sentences({k: p for k, p in results.phases(model).items() if not label_parts(k)[0]}),
    )


def phase_sentences(measured: Mapping[str, Phases]) -> str:
    """What the phases of several specifications say, in sentences.

    The task word is said to lead at a layer if its probability is above that of the input, of the answer and of the
    task's other labels, with the interval of the difference above zero.

    Args:
        measured: Phases by specification.

    Returns:
        Sentences; nothing without measurements.
    """
    found: list[str] = []
    known = {label: p for label, p in measured.items() if p.items >= LEAST}
    if few := [f"{label}: {too_few(p.items)}" for label, p in measured.items() if label not in known]:
        found.append(f"Which of input, task word and answer leads cannot be determined ({'; '.join(few)}).")
    leads = {label: p.leading() for label, p in known.items()}
    if known:
        others = all(p.other_labels is not None for p in known.values())
        rivals = "input, answer and other labels of the task" if others else "input and answer"
        where = _where({k: [lead == "task" for lead in leads[k]] for k in known}, known)
        mass = [m for k, p in known.items() for m, lead in zip(p.mass[:, 1], leads[k], strict=True) if lead == "task"]
        held = f", with {_range(mass)} of the probability" if mass else ""
        found.append(f"The task word outweighs {rivals} {where}{held}.")
        unsure = "" if others else " Whether the task's other labels outweigh it was not measured."
        over = {k: [lead == "other labels" for lead in leads[k]] for k in known}
        if any(map(any, over.values())):
            found.append(f"Other labels of the task lead {_where(over, known, skip=True)}.")
        tops = {k: p.top_is_label for k, p in known.items()}
        said = {
            k: [lead != "answer" and share >= 0.5 for lead, share in zip(leads[k], top, strict=True)]
            for k, top in tops.items()
            if top is not None
        }
        if any(map(any, said.values())):
            found.append(
                f"The top token is mostly a label of the task, not a word for it, {_where(said, known, skip=True)}."
            )
        found[-1] += unsure
    if words := list(dict.fromkeys(w for p in known.values() for w in p.label_words)):
        named = ", ".join(f"“{w.strip()}”" for w in words[:5]) + (", …" if len(words) > 5 else "")
        found.append(f"Labels of the task are among its task words ({named}): there the two cannot be distinguished.")
    return " ".join(found)


def _where(wanted: Mapping[str, Sequence[bool]], known: Mapping[str, Phases], *, skip: bool = False) -> str:
    """Where something holds, specifications with the same layers together: `at layers 0 to 5 (text ICL; image ICL)`."""
    places: dict[str, list[str]] = {}
    for label, at in wanted.items():
        run = runs(known[label].depth, list(at))
        if run or not skip:
            places.setdefault(f"at {layers(run)}" if run else "at no layer", []).append(label)
    return ", ".join(f"{where} ({'; '.join(labels)})" for where, labels in places.items())


def _range(values: Sequence[float]) -> str:
    low, high = share(min(values)), share(max(values))
    return low if low == high else f"{low} to {high}"


PART = Part(
    "phases",
    (
        Entry(
            "phases",
            "What the last token decodes to, layer by layer",
            "At each layer the residual stream at the final “:” is decoded by the plan's lens. The curves share out "
            "the probability of three sets of tokens: the input, the task word and the answer. Grey: how much of the "
            "probability all three have; where that is next to nothing, their shares say little. Crosses: the "
            "probability of the task's other labels, which are wrong answers here. Point at a layer to see its top "
            "tokens; choose a task to see it alone.",
            {
                "shares": lambda results, model: plot.phases(results.phases(model)),
                "probabilities": lambda results, model: plot.phases(results.phases(model), measure="absolute"),
            },
        ),
        Entry(
            "boundaries",
            "Where the phases change",
            "Depth at which the task outweighs the input, and the answer the task, with bootstrap intervals over "
            "items; from 0 (embedding) to 1 (last layer), so that models of different depth can be laid side by side. "
            "A change that does not occur is not drawn.",
            {"": lambda results, model: plot.boundaries(results.boundaries(model))},
        ),
    ),
    phase_takeaways,
)
