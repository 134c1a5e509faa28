"""What a page says and shows of one measurement, and how that is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xmi.errors import RunError
from xmi.report.panels import Entry
from xmi.study.results import StudyResults

Finding = tuple[str, str]
"""The model a sentence is about, and the sentence."""


def _nothing(results: StudyResults) -> list[Finding]:
    return []


@dataclass(frozen=True)
class Part:
    """One measurement on a page.

    Attributes:
        section: The section it stands in, one of `SECTIONS`.
        panels: Its panels.
        says: What it found, in sentences that follow its numbers in either direction.
    """

    section: str
    panels: tuple[Entry, ...]
    says: Callable[[StudyResults], list[Finding]] = _nothing


def for_each(results: StudyResults, say: Callable[[str], str]) -> list[Finding]:
    """What there is to say of each model; nothing of those for which the study left the measurement out."""
    found = []
    for model in results.models:
        try:
            found.append((model, say(model)))
        except RunError:  # the page then says less
            continue
    return [f for f in found if f[1]]
