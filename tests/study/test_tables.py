"""The tables of a study: no name that a user gives becomes a column, or is mistaken for something else."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmi.measure import Answers, Transfer
from xmi.study.summary import by_task, summary
from xmi.study.tables import read_table, table_text

SUMMARY = [
    "method", "source", "target", "layer", "accuracy", "low", "high", "n", "paper", "strict", "whole", "by_task",
]  # fmt: skip
BY_TASK = [
    "method", "source", "target", "task", "layer", "accuracy", "low", "high", "n", "paper", "strict", "whole",
    "own_layer", "own_accuracy",
]  # fmt: skip
NAMES = sorted(
    {*SUMMARY, *BY_TASK, "NA", "null", "None", "nan", "1", "1.0", "True", "all", "all tasks", "layers", "a,b"}
)


def measured(names: Sequence[str], seed: int = 0) -> tuple[dict[str, Answers], dict[str, Transfer]]:
    """Answers of so many tasks at three layers; the names change nothing else."""
    rng, items = np.random.default_rng(seed), 4
    tasks = tuple(name for name in names for _ in range(items))
    units = tuple(f"{name}/{i}" for name in names for i in range(items))
    labels = ("label",) * len(tasks)

    def hits(*shape: int) -> dict[str, np.ndarray]:
        size = (*shape, len(tasks))
        found = {name: rng.random(size) < 0.5 for name in ("paper", "strict")}
        return {"log_probability": -rng.random(size), "rank": rng.integers(0, 5, size), **found}

    def answers() -> Answers:
        return Answers(("?",) * len(tasks), tasks, units, labels, labels, **hits())

    def transfer() -> Transfer:
        said = ((labels,) * 3,) * 2
        return Transfer(
            ("text ICL", "instruction"), (0, 1, 2), tasks, units, labels, said, clean=answers(), **hits(2, 3)
        )

    plain = {f"text ICL > {target}": answers() for target in ("text", "image")}
    return plain, {f"image.{split}": transfer() for split in ("validation", "test")}


@pytest.mark.fault("A10")
@given(st.permutations(NAMES).map(lambda names: names[:3]))
def test_a_task_may_be_called_anything(names: list[str]) -> None:
    """Tables of tasks with hostile names are those of tasks with plain ones, but for the names."""
    plain = dict(zip("abc", names, strict=True))
    ours, theirs = measured(names), measured(list(plain))
    table = summary(*ours)
    assert list(table.columns) == SUMMARY
    pd.testing.assert_frame_equal(table, summary(*theirs))
    apart = by_task(*ours)
    assert list(apart.columns) == BY_TASK
    expected = by_task(*theirs)
    pd.testing.assert_frame_equal(apart, expected.assign(task=expected.task.map(plain)))
    again = read_table(io.StringIO(table_text(apart)))
    pd.testing.assert_frame_equal(again, apart, check_dtype=False)


@pytest.mark.fault("A10")
def test_the_table_by_task_follows_from_the_answers() -> None:
    answers, transfers = measured("abc", seed=1)
    table, apart = summary(answers, transfers), by_task(answers, transfers)
    assert len(apart) == 3 * len(table)
    for row in table.itertuples():
        own = apart[(apart.method == row.method) & (apart.source == row.source) & (apart.target == row.target)]
        assert own.task.tolist() == list("abc")
        assert own.accuracy.mean() == pytest.approx(row.accuracy)
        assert own.n.sum() == row.n
        if row.method != "patch":
            assert own.own_layer.isna().all()
            continue
        assert set(own.layer) == {row.layer}
        assert own.own_accuracy.mean() == pytest.approx(row.by_task)
        test, validation = transfers["image.test"], transfers["image.validation"]
        for one in own.itertuples():
            assert one.own_layer == validation.of_task(one.task).best_layer_of(row.source)
            assert one.own_accuracy == test.of_task(one.task).accuracy(row.source, int(one.own_layer)).mean


@pytest.mark.fault("E12")
@given(
    st.lists(st.text(st.sampled_from("=+-@\t\n'ab\uff1d|,;\""), max_size=6), min_size=1, max_size=5),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=5, max_size=5),
)
def test_no_text_of_a_table_is_a_formula_and_all_of_it_comes_back(texts: list[str], numbers: list[float]) -> None:
    table = pd.DataFrame({"source": texts, "a b": numbers[: len(texts)], texts[0] or "x": texts})
    table = table.loc[:, ~table.columns.duplicated()]
    written = table_text(table)
    for row in csv.reader(io.StringIO(written, newline="")):
        for cell, column in zip(row, table.columns, strict=True):
            assert column == "a b" or not cell.startswith(tuple("=+-@\t\r\n\uff1d"))
    again = read_table(io.StringIO(written, newline=""))
    assert list(again.columns)[:2] == list(table.columns)[:2]
    assert [text if isinstance(text, str) else "" for text in again["source"]] == texts
    plain = pd.DataFrame({"source": ["text ICL", "a"], "accuracy": [-0.5, float("nan")], "n": [3, -4]})
    assert table_text(plain) == plain.to_csv(index=False), "numbers stay numbers"
