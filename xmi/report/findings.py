"""What a study found, in sentences that follow its numbers in either direction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xmi.errors import RunError
from xmi.measure import Proportion
from xmi.report.wording import cell, percent, runs
from xmi.study.results import StudyResults

Finding = tuple[str, str]
"""The model a sentence is about, and the sentence."""

WAYS = (("text ICL", "image"), ("image ICL", "text"))
"""The two directions of cross-modal transfer: specification and modality of the query."""


def headline(results: StudyResults) -> list[str]:
    """The finding in a sentence or two: cross-modal transfer against the prompt, and against the other models.

    Returns:
        Plain sentences, negatives said as plainly as positives. Two accuracies differ when their intervals do not
        overlap.
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

    def adds(model: str) -> str:
        curve = results.ensembling(model, "image")
        gain = curve.gain().iloc[0]
        return (
            f"With {int(gain.examples)} text example{'s' if gain.examples > 1 else ''} the instruction's vector adds "
            f"{100 * gain.gain:+.0f} points [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}] on image queries."
        )

    def wins(model: str) -> str:
        result = results.overriding(model)
        patch, told, random = (result.share("patched", m) for m in ("patch", "system prompt", "control: random vector"))
        return (
            f"With one task in the prompt and another patched in after layer {result.best_layer}, the patched task is "
            f"answered in {percent(patch)} of cases, with its instruction as a system prompt in {percent(told)}, with "
            f"a random vector in {percent(random)}."
        )

    return _for_each(results, adds) + _for_each(results, wins)


def phase_takeaways(results: StudyResults) -> list[Finding]:
    """At which layers the task word outweighs input and answer, by specification."""

    def say(model: str) -> str:
        pooled = {k: p for k, p in results.phases(model).items() if " · " not in k}
        places: dict[str, list[str]] = {}
        for label, phases in pooled.items():
            where = runs(phases.depth, [d == "task" for d in phases.dominant])
            places.setdefault(f"at {_layers(where)}" if where else "at no layer", []).append(label)
        parts = [f"{where} ({'; '.join(labels)})" for where, labels in places.items()]
        return f"The task word outweighs input and answer {', '.join(parts)}." if parts else ""

    return _for_each(results, say)


def geometry_takeaways(results: StudyResults) -> list[Finding]:
    """Whether prompts cluster by task or by modality, and where."""

    def say(model: str) -> str:
        curve = results.silhouette(model)
        if np.isnan(curve.by_task).all() or np.isnan(curve.by_modality).all():
            return ""  # one task or one modality alone has no clusters to compare
        wins = [bool(t > m) for t, m in zip(curve.by_task, curve.by_modality, strict=True)]
        where = runs([str(i) for i in curve.layers], wins)
        if not where:
            return "At no layer do prompts cluster by task more than by modality."
        best = int(np.nanargmax(curve.by_task - curve.by_modality))
        return (
            f"Prompts cluster by task more than by modality at {_layers(where)}; most clearly at layer "
            f"{curve.layers[best]} (silhouette {curve.by_task[best]:.2f} against {curve.by_modality[best]:.2f})."
        )

    return _for_each(results, say)


def _for_each(results: StudyResults, say: Callable[[str], str]) -> list[Finding]:
    found = []
    for model in results.models:
        try:
            found.append((model, say(model)))
        except RunError:  # a study may leave a measurement out; the page then says less
            continue
    return [f for f in found if f[1]]


def _layers(where: str) -> str:
    return f"layer {where}" if where.isdigit() else f"layers {where}"


def _patch(results: StudyResults, model: str, way: tuple[str, str]) -> Proportion | None:
    return cell(results.summary(model), "patch", *way)


def _clean(results: StudyResults, model: str, target: str) -> Proportion | None:
    return cell(results.summary(model), "no context", None, target)


def _beats(left: Proportion, right: Proportion | None) -> bool:
    return right is not None and left.apart(right) and left.mean > right.mean


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _transfer_sentence(results: StudyResults, model: str, way: tuple[str, str]) -> str:
    source, target = way
    patch, clean = _patch(results, model, way), _clean(results, model, target)
    prompt = cell(results.summary(model), "prompt", *way)
    if patch is None:
        return ""
    does = "gives" if clean is None else _effect(patch, clean)
    against = []
    if prompt is not None:
        verdict = _tested(results, model, way) or _verdict(patch, prompt)
        against.append(f"{percent(prompt)} with the same examples as a prompt (xBase, {verdict})")
    if clean is not None:
        against.append(f"{percent(clean)} without context")
    end = f", against {' and '.join(against)}." if against else "."
    kind = source.removesuffix(" ICL")
    return (
        f"vector read from {kind} examples and patched into {_article(target)} query {does} {percent(patch)} right{end}"
    )


def _effect(patch: Proportion, clean: Proportion) -> str:
    if not _beats(patch, clean):
        return "does not make the model do the task:"
    return "makes the model do the task:" if patch.mean >= 0.5 else "makes the model do the task some of the time:"


def _tested(results: StudyResults, model: str, way: tuple[str, str]) -> str:
    """The verdict of the paired test, where the study holds one."""
    try:
        table = results.comparisons(model)
    except RunError:
        return ""
    rows = table[(table.contrast == "xPatch vs xBase") & (table.target == way[1]) & table.a.str.startswith(way[0])]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    better = "neither is shown to be better" if row.p_holm >= 0.05 else (
        f"the {'patch' if row.difference > 0 else 'prompt'} is better"
    )  # fmt: skip
    return (
        f"{better}: {100 * row.difference:+.0f}\u00a0points [{100 * row.low:+.0f},\u00a0{100 * row.high:+.0f}], "
        f"p\u00a0=\u00a0{row.p_holm:.2g} after correction"
    )


def _verdict(patch: Proportion, prompt: Proportion) -> str:
    if not patch.apart(prompt):
        return "intervals overlap: neither is shown to be better"
    return (
        "the patch is better, intervals apart" if patch.mean > prompt.mean else "the prompt is better, intervals apart"
    )


def _elsewhere(results: StudyResults, main: str, other: str, way: tuple[str, str]) -> str:
    here, there = _patch(results, main, way), _patch(results, other, way)
    clean = _clean(results, other, way[1])
    if here is None or there is None:
        return ""
    start = f"In {other}, the same patch gives {percent(there)}"
    more = "" if clean is None else ", more than without context" if _beats(there, clean) else (
        ", no more than without context"
    )  # fmt: skip
    if not here.apart(there):
        return f"{start}{more}, and cannot be told apart from {main}: the intervals overlap."
    amount = "less" if there.mean < here.mean else "more"
    return f"{start}{more}, and {amount} than in {main}, intervals apart."
