"""The report as a file: one document, complete in itself, in the promised order."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

SECTIONS = ["finding", "phases", "geometry", "transfer", "prompts", "provenance"]
MAX_BYTES = 8_000_000
# Attributes by which a browser fetches something without being asked; <a href> is the reader's own choice.
FETCHES = {"src", "srcset", "poster", "data", "background", "action", "formaction", "ping", "manifest"}


class Outline(HTMLParser):
    """Collects what the tests ask about the document."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[str | None] = []
        self.tags: list[str] = []
        self.language: str | None = None
        self.fetched: list[str] = []
        self.images_without_text = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "section":
            self.sections.append(values.get("id"))
        if tag == "html":
            self.language = values.get("lang")
        if tag == "img" and "alt" not in values:
            self.images_without_text += 1
        for name, value in values.items():
            asks = name in FETCHES or (tag == "link" and name == "href") or (tag == "use" and "href" in name)
            if asks and value and not value.startswith(("data:", "#")):
                self.fetched.append(f"<{tag} {name}={value[:80]}>")


@pytest.fixture(scope="module")
def outline(report_path: Path) -> Outline:
    parsed = Outline()
    parsed.feed(report_path.read_text(encoding="utf-8"))
    return parsed


def test_is_small_enough_to_send(report_path: Path) -> None:
    assert report_path.stat().st_size < MAX_BYTES


def test_sections_stand_in_reading_order(outline: Outline) -> None:
    assert [s for s in outline.sections if s in SECTIONS] == SECTIONS


def test_nothing_is_fetched(outline: Outline) -> None:
    assert outline.fetched == []


def test_is_accessible_at_heart(outline: Outline) -> None:
    assert outline.language
    assert outline.tags.count("title") >= 1
    assert outline.tags.count("h1") == 1
    assert outline.images_without_text == 0
