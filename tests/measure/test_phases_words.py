"""Task words: what the rule takes, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xmi.measure.result import encode
from xmi.measure.task_words import TaskWords, choose_task_words

DEPTH = ("embed", "0", "1")
TASKS = ("capital",) * 4 + ("color",) * 4


def choose(held: dict[str, np.ndarray], taken: dict[str, list[str]] | None = None, **rule: float) -> TaskWords:
    """Chooses among tokens of given mass [prompt, depth], each in a place of the top k of its own."""
    texts = dict(enumerate(held))
    values = np.stack([np.broadcast_to(v, (8, 3)) for v in held.values()], -1)
    ids = np.broadcast_to(np.arange(len(held)), values.shape)
    # A token without mass is not among the top ones: something else is.
    ids = np.where(values > 0, ids, len(held))
    return choose_task_words(TASKS, ids, values, {**texts, len(held): "filler"}, taken or {}, DEPTH, **rule)


def mass(capital: list[float], color: list[float]) -> np.ndarray:
    return np.array([capital] * 4 + [color] * 4)


def test_outstanding_tokens_are_found_where_they_stand_out() -> None:
    found = choose(
        {
            " capital": mass([0.1, 0.6, 0.2], [0.0, 0.0, 0.0]),
            " city": mass([0.0, 0.1, 0.3], [0.0, 0.0, 0.1]),
            " colour": mass([0.0, 0.0, 0.0], [0.0, 0.2, 0.5]),
            " the": mass([0.5, 0.2, 0.1], [0.4, 0.2, 0.1]),
        }
    )
    assert found.of("capital") == (" capital", " city")
    assert found.of("color") == (" colour",)
    assert found.ids_of("color") == (2,)
    table = found.to_frame().set_index("token")
    assert list(table.loc[" city", ["depth", "mass", "elsewhere", "share"]]) == ["1", 0.3, 0.1, 1.0]
    with pytest.raises(ValueError, match="'flavor'; the tasks are capital, color"):
        found.of("flavor")


def test_each_threshold_counts() -> None:
    held = {"word": mass([0.0, 0.3, 0.0], [0.0, 0.1, 0.0])}
    assert choose(held).of("capital") == ("word",)
    assert choose(held, times=4).tokens == ()
    assert choose(held, mass=0.4).tokens == ()
    half = held["word"].copy()
    half[2:4] = 0
    assert choose({"word": half}, times=1).of("capital") == ("word",)
    assert choose({"word": half}, times=1, share=0.6).tokens == ()
    many = {f"word{'abcdefg'[i]}": mass([0.0, 0.1 - i / 100, 0.0], [0.0] * 3) for i in range(7)}
    assert choose(many, limit=3).of("capital") == ("worda", "wordb", "wordc")


def test_a_word_must_stand_out_against_every_other_task() -> None:
    tasks = ("capital", "color", "flavor")
    probabilities = np.array([0.4, 0.3, 0.0])[:, None, None] * np.ones((3, 2, 1))
    ids = np.where(probabilities > 0, 0, 1)
    found = choose_task_words(tasks, ids, probabilities, {0: "word", 1: "filler"}, {}, DEPTH[:2])
    assert found.tokens == (), "0.4 is twice the mean of the others, but not twice 0.3"
    assert choose_task_words(tasks, ids, probabilities, {0: "word"}, {}, DEPTH[:2], times=1.3).elsewhere == [0.3]


@pytest.mark.parametrize("token", [" Athens", "athens", "ath", "iro", "A", ":", " 12", "\ufffdx", "greek city-states"])
def test_inputs_answers_and_fragments_are_no_task_words(token: str) -> None:
    held = {token: mass([0.0, 0.5, 0.0], [0.0] * 3)}
    taken = {"capital": ["Athens", "Cairo", "Greek"]}
    assert choose(held, taken).tokens == ()


def test_what_one_task_uses_another_may_be_named_by() -> None:
    held = {"orange": mass([0.0, 0.5, 0.0], [0.0] * 3), "色": mass([0.0] * 3, [0.0, 0.5, 0.0])}
    assert choose(held, {"color": ["orange"]}).tokens == ("orange", "色")
    assert choose(held, {"capital": ["orange"]}).tokens == ("色",)


def test_one_task_stands_out_against_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two"):
        choose_task_words(["a"], np.zeros((1, 3, 1), int), np.ones((1, 3, 1)), {0: "word"}, {}, DEPTH)
    none = choose({"the": mass([0.5] * 3, [0.5] * 3)})
    assert none.of("capital") == ()
    assert len(none.to_frame()) == 0
    np.testing.assert_equal(encode(TaskWords.load(none.save(tmp_path / "w.json"))), encode(none))
