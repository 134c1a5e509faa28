"""YAML and JSON of users: bounded before they are expanded, every key once, every fault in one error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import xmi
from xmi.faults import LISTED, listing
from xmi.prompt import load_task
from xmi.prompt.task_sheet import read_sheet
from xmi.structured import DEPTH, PAGE, parse_json, parse_yaml, read_text
from xmi.study.plan import read_plan

LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
HOSTILE_YAML = {
    "a billion laughs": LAUGHS,
    "an alias": "model: &m x\nbase: *m",
    "deep lists": "tasks: " + "[" * 500 + "]" * 500,
    "deep keys": "tasks: " + "{a: " * 5000,
    "deep blocks": "\n".join(" " * i + "a:" for i in range(200)),
    "a key twice": "name: a\nname: b",
    "a key twice inside": "template:\n  prefix: a\n  prefix: b",
    "a list as a key": "? [a]\n: b",
    "no such day": "name: 2024-99-99",
    "a tag of Python": "name: !!python/object/apply:os.system [ls]",
    "a control character": "name: 'a\x01b'",
    "nothing": "",
    "too much": "# " + "x" * PAGE,
    "UTF-16 without a mark": "name: a".encode("utf-16-le").decode("latin-1"),
}


@pytest.mark.fault("E10", "E14")
@pytest.mark.parametrize("content", HOSTILE_YAML.values(), ids=HOSTILE_YAML.keys())
def test_no_yaml_harms(content: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(xmi.RunError, match=r"own\.yaml"):
        read_plan(file)
    with pytest.raises(xmi.TaskError, match=r"own\.yaml"):
        load_task(file)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8))
def test_plain_yaml_is_what_the_library_reads(value: object) -> None:
    text = yaml.safe_dump({"key": value})
    assert parse_yaml(text, Path("x"), xmi.RunError) == yaml.safe_load(text)


HOSTILE_JSON = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"items":' * 100_000,
    "deep but whole": "[" * 500 + "]" * 500,
    "deep in an item": json.dumps([{"input": "a", "output": json.loads("[" * 50 + "]" * 50)}]),
    "a key twice": '{"items": [], "items": [{"input": "a", "output": "b"}]}',
    "a key twice in an item": '[{"input": "a", "input": "b", "output": "c"}]',
    "half": '[{"input": "a", "out',
    "a number of a million digits": '[{"input": ' + "1" * 1_000_000 + "}]",
    "nothing": "",
    "NUL": "[\0]",
}


@pytest.mark.fault("E14")
@pytest.mark.parametrize("content", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
@pytest.mark.parametrize("name", ["own.json", "own.jsonl"])
def test_no_json_harms(content: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(xmi.TaskError, match="own") as found:
        load_task(tmp_path / name)
    assert len(str(found.value)) < 3000


@given(st.integers(0, 2 * DEPTH))
def test_depth_is_counted(depth: int) -> None:
    text = "[" * depth + "1" + "]" * depth
    if depth <= DEPTH:
        assert parse_json(text) == parse_yaml(text, Path("x"), xmi.RunError) == json.loads(text)
    else:
        with pytest.raises(xmi.RunError, match=f"more than {DEPTH} deep"):
            parse_yaml(text, Path("x"), xmi.RunError)
        with pytest.raises(ValueError, match=f"more than {DEPTH} deep"):
            parse_json(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_encodings_are_obeyed(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("Zürich\r\n東京".encode(encoding))
    assert read_text(tmp_path / "x", xmi.TaskError) == "Zürich\r\n東京"


@given(st.binary(max_size=64))
def test_any_bytes_are_text_or_an_error_that_names_the_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "own.csv"
        file.write_bytes(content)
        try:
            load_task(file)
        except xmi.TaskError as error:
            assert "own" in str(error)


def test_endless_files_are_not_read_to_their_end() -> None:
    with pytest.raises(xmi.RunError, match="larger than"):
        read_text(Path("/dev/zero"), xmi.RunError, limit=1000)


@pytest.mark.fault("E14", "E10")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2024-01-01", "the date 2024-01-01: put it in quotes"),
        ("no", "false .as which YAML reads yes, no.*: put it in quotes"),
        ("1_000", "the number 1000: put it in quotes"),
        ("12:30", "the number 750: put it in quotes"),
        ("1.0", "the number 1.0: put it in quotes"),
        ("[a]", "found a list"),
        ("{a: b}", "found keys with values"),
    ],
)
@pytest.mark.parametrize("key", ["name", "instruction", "source", "root"])
def test_words_that_yaml_reads_as_something_else_are_to_be_quoted(
    key: str, value: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "sheet.yaml"
    file.write_text(f"{key}: {value}")
    with pytest.raises(xmi.TaskError, match=f"{key}: expected text, .*{said}"):
        read_sheet(file)


@pytest.mark.fault("E15")
@given(st.lists(st.text(st.characters(categories=["L"]), min_size=1), max_size=3 * LISTED))
def test_many_faults_are_summed_up(faults: list[str]) -> None:
    lines = listing(faults).split("\n") if faults else []
    assert [line.strip() for line in lines[:LISTED]] == faults[:LISTED]
    assert len(lines) <= LISTED + 1
    if len(faults) > LISTED:
        assert f"{len(faults) - LISTED} more" in lines[-1]
