"""Scores where several labels count as right: a hit on any of them, and on nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xmi.measure import paper_hit, strict_hit
from xmi.measure.scoring import whole_hit

WORDS = st.text("ab c", max_size=4)


@given(WORDS, st.lists(WORDS, max_size=4))
def test_any_label_counts(said: str, labels: list[str]) -> None:
    assert paper_hit(said, labels) == any(paper_hit(said, label) for label in labels)
    assert whole_hit(said, tuple(labels)) == any(whole_hit(said, label) for label in labels)


@given(st.integers(0, 5), st.sets(st.integers(0, 5)))
def test_any_first_token_counts(said: int, labels: set[int]) -> None:
    assert strict_hit(said, labels) == any(strict_hit(said, label) for label in labels)


def test_by_hand() -> None:
    assert paper_hit("lamb", ["calf", "lambkin"]) and not paper_hit("foal", ["calf", "lambkin"])
    assert paper_hit("Lamb", ["calf", "lamb"], ignore_case=True) and not paper_hit("Lamb", ["calf", "lamb"])
    assert whole_hit("sweet potato.", ["yam", "sweet potato"]) and not whole_hit("sweet", ["yam", "sweet potato"])
    assert not paper_hit("x", []) and not whole_hit("x", []) and not strict_hit(1, set())
