"""Tables however they are separated, sheets that stay in their folder, texts of any kind: read, or one error."""

from __future__ import annotations

import csv
import io
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import xmi
from tests.prompt.test_task_sources import Rows, picture
from xmi.faults import LISTED
from xmi.prompt import Item, Task, Template, check_task, load_task

PLAIN = [["input", "output", "split"], *([f"x {k}", f'y "{k}", z; {k}', "train"] for k in range(12))]


def table(separator: str, rows: list[list[str]] = PLAIN, end: str = "\r\n") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator=end).writerows(rows)
    return stream.getvalue()


@pytest.mark.fault("C2")
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["own.csv", "own.tsv"])
@pytest.mark.parametrize(
    ("told", "encoding", "end"),
    [
        *product(("",), ("utf-8", "utf-8-sig", "utf-16"), ("\n", "\r\n")),
        *product(("sep=X\r\n",), ("utf-8-sig",), ("\n",)),
    ],
)
def test_a_table_is_the_same_however_it_is_separated(
    separator: str, name: str, told: str, encoding: str, end: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes((told.replace("X", separator) + table(separator, end=end)).encode(encoding))
    (tmp_path / "plain.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(PLAIN[0], row, strict=True))) for row in PLAIN[1:])
    )
    assert load_task(tmp_path / name, name="plain") == load_task(tmp_path / "plain.jsonl")


@pytest.mark.fault("C2")
def test_columns_of_other_names_are_found_too(tmp_path: Path) -> None:
    rows = [["Wort", "Antwort, kurz", "more"], *([f"x{k}", f"y{k}", ""] for k in range(5))]
    (tmp_path / "own.csv").write_text(table(";", rows))
    task = load_task(tmp_path / "own.csv", columns={"input": "Wort", "output": "Antwort, kurz"})
    assert [item.output for item in task.items] == [f"y{k}" for k in range(5)]


@pytest.mark.fault("C2")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("input;output\tsplit\nx;y\tz\n", "not separated by commas, and by several other signs"),
        ("input|output\nx|y\n", "unknown column 'input|output'"),
        ("land;city\n" + "a;b\n" * 50, "unknown column 'land'"),
        ("input;output\n" + "a;b;c\n" * 50, "3 cells under 2 columns; quote text with semicolons"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_cause(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(xmi.TaskError) as caught:
        load_task(tmp_path / "own.csv")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= LISTED + 3


@pytest.mark.fault("E15")
def test_thousands_of_faults_are_twenty_lines_and_a_count(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("input,output\n" + ",\n" + "x,\n" * 5000)
    with pytest.raises(xmi.TaskError, match=r"9999 fault.s.") as caught:
        load_task(tmp_path / "own.csv")
    assert len(str(caught.value).splitlines()) == LISTED + 2
    assert "9979 more" in str(caught.value)
    blind = Task("blind", tuple(Item(f"x{k}", "y", None, "train") for k in range(5000)))
    with pytest.raises(xmi.TaskError, match=r"5000 item.s. without an image: x0, .* and 4980 more") as caught:
        check_task(blind, shots=2)
    assert len(str(caught.value)) < 1000
    many = {"items": [], **{f"key {k}": 1 for k in range(5000)}}
    (tmp_path / "own.json").write_text(json.dumps(many))
    with pytest.raises(xmi.TaskError, match="4980 more") as caught:
        load_task(tmp_path / "own.json")
    assert len(str(caught.value)) < 5000


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with data; beside it what it must not reach."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for target in (folder / "images", tmp_path):
        picture(1).save(target / "secret.png")
        (target / "secret.csv").write_text("input,output,image\nx,y,secret.png\nz,y,\n")
    (folder / "own.csv").write_text("input,output,image\nx,y,secret.png\nz,y,\n")
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    return folder


OUTSIDE = [
    "..",
    "../",
    "images/../..",
    "link",
    "link/data/..",
    "/",
    "ABSOLUTE",
    "../../../../..",
    "images/../../data/../",
]


@pytest.mark.fault("E11")
@pytest.mark.parametrize("root", OUTSIDE)
def test_a_sheet_cannot_move_the_root_out_of_its_folder(inside: Path, root: str) -> None:
    root = root.replace("ABSOLUTE", str(inside.parent))
    (inside / "own.yaml").write_text(f"root: '{root}'\n")
    (inside / "task.yaml").write_text(f"source: own.csv\nroot: '{root}'\n")
    for source in ("own.csv", "task.yaml"):
        with pytest.raises(xmi.TaskError, match="leads outside of its folder"):
            load_task(inside / source)
        task = load_task(inside / source, root=inside.parent)  # the user's own word
        assert task.items[0].image == (inside.parent / "secret.png").resolve()
    (inside / "own.yaml").write_text("root: images\n")
    assert load_task(inside / "own.csv").items[0].image == (inside / "images" / "secret.png").resolve()


@pytest.mark.fault("E11")
@pytest.mark.parametrize("source", ["../secret.csv", "link/secret.csv", "link.csv", "ABSOLUTE/secret.csv", "link"])
def test_a_sheet_cannot_name_a_source_outside_of_its_folder(inside: Path, source: str) -> None:
    (inside / "task.yaml").write_text(f"source: '{source.replace('ABSOLUTE', str(inside.parent))}'\n")
    with pytest.raises(xmi.TaskError, match="leads outside of its folder"):
        load_task(inside / "task.yaml")


@pytest.mark.fault("E11")
@pytest.mark.parametrize("image", ["../secret.png", "link/secret.png", "ABSOLUTE/secret.png", "/etc/passwd"])
@pytest.mark.parametrize("name", ["own.csv", "own.json", "own.jsonl"])
def test_a_row_cannot_name_an_image_outside(inside: Path, name: str, image: str) -> None:
    row = {"input": "x", "output": "y", "image": image.replace("ABSOLUTE", str(inside.parent))}
    content = "input,output,image\n" + ",".join(row.values()) if name == "own.csv" else json.dumps(row)
    (inside / name).write_text(f"[{content}]" if name == "own.json" else content)
    with pytest.raises(xmi.TaskError, match=r"own.* \(x\): image .* lies outside the data root"):
        load_task(inside / name)


@pytest.mark.fault("E11")
def test_a_dataset_cannot_name_files_of_this_machine(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    secret = str(inside.parent / "secret.png")
    for image in (secret, {"bytes": None, "path": secret}):
        rows = Rows([{"input": f"x{k}", "output": "y", "image": image} for k in range(2)])
        with pytest.raises(xmi.TaskError, match="row 0: the image cannot be read"):
            load_task(rows)
        with pytest.raises(xmi.TaskError, match="row 0: the image cannot be read"):
            load_task(rows, root=inside)
        assert len(load_task(rows, root=inside.parent).items) == 2


@pytest.mark.fault("E14")
@given(
    st.one_of(
        st.none(), st.integers(), st.floats(), st.booleans(), st.binary(), st.lists(st.integers()), st.just(object())
    )
)
def test_nothing_but_text_is_text(value: Any) -> None:
    item = {"input": "x", "output": "y", "image": None, "split": "train"}
    for name in ("input", "output", "split"):
        with pytest.raises(xmi.XmiError, match=name):
            Item(**{**item, name: value})
    for name in ("prefix", "delimiter", "separator"):
        with pytest.raises(xmi.XmiError, match=name):
            Template(**{name: value})
    with pytest.raises(xmi.XmiError):
        Task(value, (Item(**item),))
    if value not in ([], ()):
        with pytest.raises(xmi.XmiError):
            Task("t", value)
        with pytest.raises(xmi.XmiError):
            Task("t", (Item(**item),), instructions=value)
    with pytest.raises(xmi.XmiError):
        load_task(value)
    task = Task("t", tuple(Item(f"x{k}", "y", None, "train") for k in range(9)))
    if not isinstance(value, int) or isinstance(value, bool):
        for wrong in ({"shots": value}, {"seed": value}, {"modality": value}, {"split": value}):
            with pytest.raises(xmi.XmiError):
                task.icl(**{"shots": 2, "split": "train", **wrong})


@pytest.mark.fault("E14")
@pytest.mark.parametrize("name", ["a" * 230, "", "  ", "a\nb", "a\x1b[31m", "\x00"])
def test_names_that_nothing_can_be_called_by_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(xmi.XmiError, match="cannot be called"):
        Task(name, (Item("x", "y", None, "train"),))
    (tmp_path / "own.json").write_text(json.dumps({"name": name or None, "items": [{"input": "a", "output": "b"}]}))
    if name:
        with pytest.raises(xmi.XmiError, match="cannot be called"):
            load_task(tmp_path / "own.json")


@pytest.mark.fault("E14")
def test_half_a_character_is_refused_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(
        '{"input": "a\\ud800", "output": "b"}\n{"input": "c", "output": ["d", "\\udfff"]}'
    )
    with pytest.raises(xmi.XmiError, match=r"(?s)line 1: input: text with half.*line 2 \(c\): output: text with half"):
        load_task(tmp_path / "own.jsonl")


def test_a_bomb_among_the_images_of_a_dataset_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((99, 99, 3), dtype=np.uint8)).save(buffer, "PNG")
    rows = Rows([{"input": "x", "output": "y", "image": buffer.getvalue()}])
    with pytest.raises(xmi.TaskError, match="row 0: the image cannot be read"):
        load_task(rows)
