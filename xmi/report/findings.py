"""What a study found, in sentences that follow its numbers in either direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xmi.errors import RunError
from xmi.measure import Phases, Proportion, Silhouette
from xmi.names import IMAGE_ICL, NO_CONTEXT, RANDOM, TEXT_ICL, label_parts, modality_of
from xmi.numerals import SPACE, decimal, defined, digits_that_add_up
from xmi.numerals import percent as share
from xmi.report.wording import (
    LEAST,
    LEVEL,
    adds,
    against_clean,
    better,
    cell,
    effect,
    elsewhere,
    gain,
    layers,
    percent,
    runs,
    tested,
    too_few,
)
from xmi.study.results import StudyResults

Finding = tuple[str, str]
"""The model a sentence is about, and the sentence."""

WAYS = ((TEXT_ICL, "image"), (IMAGE_ICL, "text"))
"""The two directions of cross-modal transfer: specification and modality of the query."""


def headline(results: StudyResults) -> list[str]:
    """The finding in a sentence or two: cross-modal transfer against the prompt, and against the other models.

    Returns:
        Plain sentences, negatives said as plainly as positives, and what is not known as plainly as both. Two
        accuracies differ when their intervals do not overlap.
    """
    main, *others = results.models
    way = next((w for w in WAYS if _patch(results, main, w) is not None), None)
    if way is None:
        return [f"This study of {main} holds no cross-modal transfer."]
    sentences = [f"In {main}, one task {_transfer_sentence(results, main, way)}"]
    return sentences + [s for s in (_elsewhere(results, main, other, way) for other in others) if s]


def transfer_takeaways(results: StudyResults) -> list[Finding]:
    """Both directions of the cross-modal transfer, model by model."""
    return [
        (model, f"One {_transfer_sentence(results, model, way)}")
        for model in results.models
        for way in WAYS
        if _patch(results, model, way) is not None
    ]


def further_takeaways(results: StudyResults) -> list[Finding]:
    """What the instruction adds to examples, and whose task is done when two compete."""

    def added(model: str) -> str:
        curve = results.ensembling(model, "image")
        row = curve.gain().iloc[0]
        return (
            f"With {int(row.examples)} text example{'s' if row.examples > 1 else ''} the instruction's vector "
            f"{adds(row.gain, row.low, row.high, int(row.n))} on image queries."
        )

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

    return _for_each(results, added) + _for_each(results, wins)


def phase_takeaways(results: StudyResults) -> list[Finding]:
    """What leads at which layers, by specification: the task word, or labels of the task."""
    return _for_each(
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
        found.append(f"Which of input, task word and answer leads cannot be said ({'; '.join(few)}).")
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
        found.append(f"Labels of the task are among its task words ({named}): there the two cannot be told apart.")
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


def geometry_takeaways(results: StudyResults) -> list[Finding]:
    """Whether prompts cluster by task or by modality, and where."""
    return _for_each(results, lambda model: cluster_sentence(results.silhouette(model)))


def cluster_sentence(curve: Silhouette) -> str:
    """Whether points cluster by task more than by modality, as far as the tests allow to say.

    Args:
        curve: Both silhouettes.

    Returns:
        A sentence; nothing where one of the two has no clusters to compare.
    """
    both = [defined(t) and defined(m) for t, m in zip(curve.by_task, curve.by_modality, strict=True)]
    if not any(both):
        return ""
    gap = np.where(both, curve.by_task - curve.by_modality, -np.inf)
    wins = gap > 0
    if curve.p_task is not None:
        wins &= np.array([defined(p) and p < LEVEL for p in curve.p_task])
    note = "" if curve.p_task is None else f"; clusters of tasks tested, p{SPACE}<{SPACE}{LEVEL} after correction"
    where = runs([str(i) for i in curve.layers], wins.tolist())
    if not where:
        shown = "At no layer" if curve.p_task is None else "At no layer are prompts shown to"
        return f"{shown} {'do prompts ' if curve.p_task is None else ''}cluster by task more than by modality."
    best = int(np.argmax(np.where(wins, gap, -np.inf)))
    return (
        f"Prompts cluster by task more than by modality at {layers(where)}; most clearly at layer "
        f"{curve.layers[best]} (silhouette {decimal(curve.by_task[best])} against "
        f"{decimal(curve.by_modality[best])}{note})."
    )


def _for_each(results: StudyResults, say: Callable[[str], str]) -> list[Finding]:
    found = []
    for model in results.models:
        try:
            found.append((model, say(model)))
        except RunError:  # a study may leave a measurement out; the page then says less
            continue
    return [f for f in found if f[1]]


def _patch(results: StudyResults, model: str, way: tuple[str, str]) -> Proportion | None:
    return cell(results.summary(model), "patch", *way)


def _clean(results: StudyResults, model: str, target: str) -> Proportion | None:
    return cell(results.summary(model), NO_CONTEXT, None, target)


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _transfer_sentence(results: StudyResults, model: str, way: tuple[str, str]) -> str:
    source, target = way
    patch, clean = _patch(results, model, way), _clean(results, model, target)
    prompt = cell(results.summary(model), "prompt", *way)
    if patch is None:
        return ""
    against, digits = [], 0
    if prompt is not None:
        row = _compared(results, model, way)
        digits = 0 if row is None else digits_that_add_up(patch.mean, prompt.mean, row["difference"])
        verdict = better(patch, prompt) if row is None else tested(row, digits)
        against.append(f"{percent(prompt, digits)} with the same examples as a prompt (xBase, {verdict})")
    if clean is not None:
        against.append(f"{percent(clean, digits)} without context")
    end = f", against {' and '.join(against)}." if against else "."
    kind = modality_of(source)
    return (
        f"vector read from {kind} examples and patched into {_article(target)} query {effect(patch, clean)} "
        f"{percent(patch, digits)} right{end}"
    )


def _compared(results: StudyResults, model: str, way: tuple[str, str]) -> dict[str, Any] | None:
    """The paired test of patch and prompt, where the study holds one."""
    try:
        table = results.comparisons(model)
    except RunError:
        return None
    rows = table[(table.contrast == "xPatch vs xBase") & (table.target == way[1]) & table.a.str.startswith(way[0])]
    return None if rows.empty else {str(k): v for k, v in rows.iloc[0].items()}


def _elsewhere(results: StudyResults, main: str, other: str, way: tuple[str, str]) -> str:
    here, there = _patch(results, main, way), _patch(results, other, way)
    if here is None or there is None:
        return ""
    more = against_clean(there, _clean(results, other, way[1]))
    return f"In {other}, the same patch gives {percent(there)}{more}{elsewhere(here, there, main)}"
