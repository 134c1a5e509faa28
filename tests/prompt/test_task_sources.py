"""Tasks of the user's own, from every kind of source; faults with their places; splits that never overlap."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import xmi
from xmi.prompt import Item, Task, check_task, load_task
from xmi.prompt.items import deal


def picture(k: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(k).integers(0, 255, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for k in range(10):
        picture(k).save(tmp_path / "images" / f"{k}.png")
    return tmp_path


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"input": f"x{k}", "output": f"y{k}", "image": f"images/{k % 10}.png"} for k in range(start, start + n)]


def splits(task: Task) -> dict[str, set[str]]:
    return {s: {i.input for i in task.items if i.split == s} for s in ("train", "validation", "test")}


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_annotations(root: Path, wrapped: bool) -> None:
    folder = root / "annotations"
    folder.mkdir()
    val, test = rows(6), rows(4, 6)
    for name, part in (("val", val), ("test", test)):
        content = json.dumps({"data": part} if wrapped else part)
        (folder / f"country-capital_{name}.json").write_text(content, encoding="utf-8")
    task = xmi.task(folder / "country-capital")
    assert task == xmi.task(folder / "country-capital_test.json")
    found = splits(task)
    assert [len(found[s]) for s in ("train", "validation", "test")] == [3, 3, 4]
    assert found["train"] | found["validation"] == {r["input"] for r in val} and found["test"] == {
        "x6",
        "x7",
        "x8",
        "x9",
    }
    assert task.items[0].image == root / "images" / "0.png"
    assert task.instructions == ("The capital city of the country:",)
    paper = xmi.task(folder / "country-capital", examples="validation")
    assert len(splits(paper)["validation"]) == 6
    for prompt in paper.icl(shots=5, n=6, split="validation"):
        shown = [s.text for s in prompt.segments if s.role == "input"]
        assert sorted(shown) == sorted(r["input"] for r in val), "five others and the query, never itself"


TABLE = 'input,output,image,split\r\n"a, b",Euro|euro,images/1.png,train\r\n\r\n"two\r\nlines",x,,test\r\n'


def test_csv_with_mark_crlf_quotes_and_several_labels(root: Path) -> None:
    path = root / "own.csv"
    path.write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    first, second = xmi.task(path).items
    assert (first.input, first.outputs, first.image, first.split) == (
        "a, b", ("Euro", "euro"), root / "images" / "1.png", "train",
    )  # fmt: skip
    assert (second.input, second.image, second.split) == ("two\r\nlines", None, "test")


def test_json_lines_and_tsv_say_the_same(root: Path) -> None:
    several = [{**r, "output": [r["output"], "z"]} for r in rows(10)]
    (root / "own.jsonl").write_text("\r\n".join(map(json.dumps, several)), encoding="utf-8")
    lines = [
        "\t".join(("input", "output", "image")),
        *("\t".join((r["input"], f"{r['output']} | z", r["image"])) for r in rows(10)),
    ]
    (root / "own.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert xmi.task(root / "own.jsonl") == xmi.task(root / "own.tsv")
    assert [len(s) for s in splits(xmi.task(root / "own.tsv")).values()] == [6, 2, 2]


def test_every_fault_with_its_line(root: Path) -> None:
    outside = root.parent / f"{root.name}-outside.png"
    picture(0).save(outside)
    (root / "link.png").symlink_to(outside)
    (root / "cut.jpg").write_bytes(jpeg()[:-300])  # its head is sound
    path = root / "own.csv"
    lines = ["input,output,image", "a,b,none.png", "c,,", "a,d,link.png", "e,f,cut.jpg", "g", ",h,"]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(xmi.TaskError) as caught:
        xmi.task(path)
    said = str(caught.value).splitlines()
    assert "7 fault(s)" in said[0] and len(said) == 8
    for line, fragment in (
        (2, "'none.png' does not exist"), (3, "empty output"), (4, "occurs twice, first in own.csv line 2"),
        (4, "outside the data root"), (5, "cannot be opened"), (6, "1 cells under 3 columns"), (7, "empty input"),
    ):  # fmt: skip
        assert any(f"own.csv line {line}" in s and fragment in s for s in said), (line, fragment)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"input,output,colour\nx,y,z\n", "line 2: unknown column 'colour'"),
        ("a.csv", b"input,output\nx,y\nK\xf6ln,z\n", "line 3 is not UTF-8"),
        ("a.csv", b"", "no line with the names of the columns"),
        ("a.csv", b"input,output,split\na,b,train\nc,d,\n", "line 3: no split, though others have one"),
        ("a.csv", b'input,output\na,"b\n', "line 2"),
        ("a.jsonl", b'{"input": "a", "output": 3}\n[1]\n{"input"\n', "line 3: not JSON"),
        ("a.jsonl", b'{"input": "a", "output": 3}\n', "line 1 (a): output: expected text, found the number 3: put it"),
        ("a.jsonl", b'{"input": "a", "output": ["b", " "]}\n', "empty output"),
        ("a.jsonl", b"[1]\n", "line 1: expected an object"),
        ("a.json", b'{"items": [], "instuction": "x"}', "instuction"),
        ("a.json", b'{"items": [{"input": "a", "output": "b", "image": "a\\u0000.png"}]}', "not a path"),
        ("a.yaml", b"source: b.csv\nwords: [x]\n", "words: is not a key that is known"),
        ("a.yaml", b"instruction: x\n", "names no source"),
        ("a.yaml", b"columns: {label: x}\nsource: b.csv\n", "unknown: label"),
        ("a.txt", b"", "no such file or folder, or of an unknown kind"),
    ],
)
def test_faulty_sources(root: Path, name: str, content: bytes, said: str) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(xmi.TaskError) as caught:
        xmi.task(root / name)
    assert said in str(caught.value)


def test_a_picture_in_two_splits_is_a_fault(root: Path) -> None:
    lines = ["input,output,image,split", "a,b,images/1.png,train", "c,d,images/../images/1.png,test"]
    (root / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(xmi.TaskError, match=r"line 3 \(c\): its image stands in another split too \(own.csv line 2\)"):
        xmi.task(root / "own.csv")


def test_the_sheet_beside_a_table_and_the_sheet_as_source(root: Path) -> None:
    text = "word,answer,more\n" + "\n".join(f"x{k},y{k},-" for k in range(10))
    (root / "own.csv").write_text(text, encoding="utf-8")
    sheet = (
        'instruction: "The y:"\nparaphrases: ["Y:"]\ntask_words: [y]\ntemplate: {delimiter: " =>"}\n'
        "columns: {input: word, output: answer}\n"
    )
    (root / "own.yaml").write_text(sheet, encoding="utf-8")
    beside = xmi.task(root / "own.csv")
    assert beside.instructions == ("The y:", "Y:") and beside.task_words == ("y",)
    assert beside.queries(n=1)[0].text.endswith(" =>")
    (root / "study.yaml").write_text(sheet + "source: own.csv\nname: own\nexamples: validation\n", encoding="utf-8")
    named = xmi.task(root / "study.yaml")
    assert (named.items, named.name, named.examples) == (beside.items, "own", "validation")
    assert xmi.task(root / "own.csv", template=xmi.Template()).template == xmi.Template()
    with pytest.raises(xmi.TaskError, match="no column 'words'"):
        xmi.task(root / "own.csv", columns={"input": "words", "output": "answer"})


def test_image_folders(tmp_path: Path) -> None:
    for k in range(6):
        target = tmp_path / ("train" if k < 4 else "val") / ("cat" if k % 2 else "dog")
        target.mkdir(parents=True, exist_ok=True)
        picture(k).save(target / f"pet {k}.png")
    task = xmi.task(tmp_path)
    assert [(i.input, i.output, i.split) for i in task.split("validation")] == [
        ("pet 5", "cat", "validation"), ("pet 4", "dog", "validation"),
    ]  # fmt: skip
    assert task.split("train")[0].image == tmp_path / "train" / "cat" / "pet 1.png"
    flat = xmi.task(tmp_path / "train")
    assert {i.output for i in flat.items} == {"cat", "dog"}
    lines = ["file_name,input,output"] + [
        f"{'cat' if k % 2 else 'dog'}/pet {k}.png,animal {k},pet|beast" for k in range(3)
    ]
    (tmp_path / "train" / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(xmi.TaskError, match=r"not in metadata\.csv"):
        xmi.task(tmp_path / "train")
    (tmp_path / "train" / "cat" / "pet 3.png").unlink()
    assert [(i.input, i.outputs) for i in xmi.task(tmp_path / "train").items] == [
        (f"animal {k}", ("pet", "beast")) for k in range(3)
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(xmi.TaskError, match="no images"):
        xmi.task(tmp_path / "none")


class Names:
    def int2str(self, k: int) -> str:
        return ("cat", "dog")[k]


class Rows:
    """What xmi uses of a `datasets.Dataset`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.column_names = rows, list(rows[0])
        self.features = {"label": Names()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int) -> dict[str, Any]:
        return self.rows[k]


def test_hugging_face_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path))
    made = [{"image": picture(k), "label": k % 2, "id": k} for k in range(5)]
    made[1]["image"] = {"bytes": jpeg(), "path": None}
    columns = {"image": "image", "output": "label"}
    task = xmi.task({"train": Rows(made[:3]), "test": Rows(made[3:])}, columns=columns, name="pets")
    assert [i.output for i in task.items] == ["cat", "dog", "cat", "dog", "cat"]
    assert task.name == "pets" and [i.input for i in task.split("test")] == ["test-0", "test-1"]
    np.testing.assert_array_equal(np.asarray(Image.open(task.items[0].image or "")), np.asarray(picture(0)))
    assert task.items[1].image is not None and task.items[1].image.read_bytes() == jpeg()
    assert xmi.task({"train": Rows(made[:3]), "test": Rows(made[3:])}, columns=columns, name="pets") == task
    made[0]["image"] = b"no image"
    with pytest.raises(xmi.TaskError, match="row 0: the image cannot be read"):
        xmi.task(Rows(made), columns=columns)
    with pytest.raises(xmi.TaskError, match="unknown column 'label'"):
        xmi.task(Rows(made[1:]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(xmi.TaskError, match=r"pip install 'xmi\[datasets\]'"):
        xmi.task("hf://owner/pets")
    with pytest.raises(xmi.TaskError, match="found the number 3"):
        xmi.task(3)


@given(st.sets(st.text(min_size=1), max_size=40), st.sets(st.sampled_from(["train", "validation", "test"])))
def test_dealing(words: set[str], named: set[str]) -> None:
    kinds = sorted(named) or [""]
    items = [Item(word, "y", None, kinds[k % len(kinds)]) for k, word in enumerate(sorted(words))]
    dealt = deal(items)
    assert [i.input for i in dealt] == [i.input for i in items]
    assert {i.input: i.split for i in deal(items[::-1])} == {i.input: i.split for i in dealt}, "order does not matter"
    assert {i.split for i in dealt} <= {"train", "validation", "test"}
    assert all(a.split == b.split for a, b in zip(items, dealt, strict=True) if a.split == "test"), "test stays test"
    if not named and len(words) >= 5:
        assert [sum(i.split == s for i in dealt) for s in ("validation", "test")] == [round(len(words) / 5)] * 2


def test_check_task_lists_all_that_is_lacking() -> None:
    small = Task("small", tuple(Item(f"x{k}", "y", None, "train") for k in range(5)))
    with pytest.raises(xmi.TaskError) as caught:
        check_task(load_task("food-color"), small, shots=5, instruction=True)
    said = str(caught.value)
    assert "5 fault(s)" in said and "food-color" not in said
    for fragment in (
        "5 train item(s), but 5 shots need 6",
        "no validation",
        "no test",
        "without an image: x0, x1",
        "small: no instruction: write one into its file, or into a sheet beside it (small.yaml:",
    ):
        assert fragment in said
    check_task(small, shots=4, modalities=["text"], splits=["train"])


def test_a_table_in_memory_is_the_task_of_its_file(tmp_path: Path) -> None:
    """A DataFrame is what its CSV file is, a list of dicts its JSON; images may be pictures."""
    import pandas as pd

    names = [f"animal {number}" for number in range(10)]
    frame = pd.DataFrame({"input": names, "output": [f"young {n % 3}|{n}" for n in range(10)], "extra": [None] * 10})
    frame["image"] = [f"{n}.png" if n % 2 else float("nan") for n in range(10)]
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    frame.to_csv(tmp_path / "own.csv", index=False)
    columns = {"input": "input", "output": "output", "image": "image"}
    expected = xmi.task(tmp_path / "own.csv", columns=columns)
    assert xmi.task(frame, name="own", columns=columns, root=tmp_path) == expected
    rows = [
        {"input": i.input, "output": list(i.outputs), **({"image": i.image} if i.image else {})} for i in expected.items
    ]
    assert xmi.task(rows, name="own", root=tmp_path) == expected
    shown = frame.assign(image=[Image.open(tmp_path / f"{n}.png") for n in range(10)])
    task = xmi.task(shown, columns=columns)
    assert task.name == "table"
    assert all(Image.open(str(item.image)).getpixel((0, 0)) == (n, 0, 0) for n, item in enumerate(task.items))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no items"),
        ([{"input": "a", "output": "b"}, 3], r"item\[1\]: expected an object, found the number 3|item\[1\]: expected"),
        ([{"input": "a", "output": 3}], r"item\[0\] \(a\): output:"),
        ([{"input": "a", "output": "b", "image": "/etc/passwd"}], "lies outside the data root"),
        ([{"input": "a", "output": "b", "image": 3}], "the image cannot be read"),
        ([{"input": "a", "label": "b"}], "unknown column 'label'"),
    ],
)
def test_faults_of_rows_in_memory_are_named(rows: list[Any], said: str) -> None:
    with pytest.raises(xmi.TaskError, match=said):
        xmi.task(rows)
