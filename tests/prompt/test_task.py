"""Tasks: the same reader for ours and the user's own, and every fault named before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import xmi
from xmi.prompt import Prompts, Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    splits = ["train"] * 4 + ["validation", "test"]
    items = [{"input": f"x{k}", "output": f"y{k}", "image": f"{k}.png", "split": s} for k, s in enumerate(splits)]
    content = {"name": "own", "instruction": "The y of the x:", "task_words": ["y"], "items": items} | changes
    path = folder / "own.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_own_task(folder: Path) -> None:
    task = xmi.task(write(folder))
    queries = task.queries("image")
    assert queries[0].text == "Q:<image>\nA:"
    assert queries[0].images == (folder / "5.png",)
    assert (queries[0].answer, queries[0].unit) == ("y5", "own/x5")
    assert task.instruction()[0].text == "The y of the x:"
    assert task.queries(instruction=True)[0].text == "The y of the x:\n\nQ:x5\nA:"


@pytest.mark.parametrize("name", xmi.task_names())
def test_our_tasks_are_read_by_the_same_reader(name: str) -> None:
    task = xmi.task(name)
    assert len(task.items) >= 60
    assert task.instructions[0].endswith(":")
    assert len(task.instructions) >= 4
    assert task.task_words


@given(
    seed=st.integers(0, 5),
    shots=st.integers(1, 8),
    modality=st.sampled_from(["text", "image"]),
    query=st.sampled_from([None, "text", "image"]),
    split=st.sampled_from(["train", "validation", "test"]),
    name=st.sampled_from(xmi.task_names()),
)
def test_icl_prompts(seed: int, shots: int, modality: str, query: str | None, split: str, name: str) -> None:
    task = TASKS[name]
    made = task.icl(modality, shots=shots, n=4, seed=seed, split=split, query=query)
    train = {i.input: i.output for i in task.split("train")}
    pictures = {i.image: i.input for i in task.items}
    for prompt in made:
        inputs = [s for s in prompt.segments if s.role == "input"]
        shown = [s.text or pictures[Path(str(s.image))] for s in inputs]
        answers = [s.text for s in prompt.segments if s.role == "answer"]
        assert len(shown) == shots + 1 and len(set(shown)) == shots + 1, (
            "examples are distinct, the query not among them"
        )
        assert [train[x] for x in shown[:-1]] == answers, "examples are training items with their own answers"
        assert shown[-1] == prompt.input in {i.input for i in task.split(split)}
        assert all((s.image is not None) == (modality == "image") for s in inputs[:-1])
        assert (inputs[-1].image is not None) == ((query or modality) == "image")
        assert prompt.segments[-1].name == "query.delimiter"
        written = "".join(
            f"Q:{x}\nA:{y}\n\n"
            for x, y in zip(["<image>" if i.image else i.text for i in inputs[:-1]], answers, strict=True)
        )
        assert prompt.text == written + f"Q:{'<image>' if inputs[-1].image else inputs[-1].text}\nA:"
    assert made == task.icl(modality, shots=shots, n=4, seed=seed, split=split, query=query), (
        "the same seed draws the same"
    )


TASKS: dict[str, Task] = {name: xmi.task(name) for name in xmi.task_names()}


def test_another_seed_draws_otherwise_and_none_asks_every_item_once() -> None:
    task = TASKS["country-capital"]
    assert task.icl(seed=0) != task.icl(seed=1)
    every = task.icl("text", n=None, split="test")
    assert [p.input for p in every] == [i.input for i in task.split("test")]
    assert len({p.input for p in task.icl(n=30)}) == 30
    assert isinstance(every[:2], Prompts) and len(every[:2]) == 2 and every[:2].split == "test"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": []}, ["no items"]),
        ({"items": [{"input": "a"}]}, ["items[0] (a): empty output"]),
        ({"items": [{"input": "a", "output": " "}, {"input": "a", "output": "b", "split": "dev"}]},
         ["empty output", "occurs twice", "unknown split 'dev'"]),
        ({"items": [{"input": "a", "output": "b", "image": "none.png"},
                    {"input": "c", "output": "d", "image": "own.json"}]},
         ["'none.png' does not exist", "cannot be opened as an image"]),
        ({"items": [{"input": "a", "output": "b", "image": "../../etc/passwd"}]}, ["outside the data root"]),
        ({"items": 3}, ["items"]),
    ],
)  # fmt: skip
def test_faulty_files_are_refused_with_all_their_faults(folder: Path, changes: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(xmi.TaskError) as caught:
        xmi.task(write(folder, **changes))
    for fragment in said:
        assert fragment.replace("\\", "") in str(caught.value)


def test_a_broken_image_is_found_when_the_task_is_loaded(folder: Path) -> None:
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    with pytest.raises(xmi.TaskError, match=r"x2.*cannot be opened"):
        xmi.task(write(folder))


def test_what_a_user_gets_wrong(folder: Path) -> None:
    with pytest.raises(xmi.TaskError, match="country-capital"):
        xmi.task("country-capitol")
    with pytest.raises(xmi.TaskError, match="Cannot read"):
        xmi.task(folder / "missing.json")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(xmi.TaskError, match="not a task file"):
        xmi.task(folder / "broken.json")
    task = xmi.task(write(folder))
    with pytest.raises(xmi.TaskError, match="4 training items: too few for 4"):
        task.icl(shots=4)
    with pytest.raises(xmi.TaskError, match="at least one example"):
        task.icl(shots=0)
    with pytest.raises(xmi.TaskError, match="modality 'video'"):
        task.icl("video")
    with pytest.raises(xmi.TaskError, match="split 'dev'"):
        task.queries(split="dev")
    bare = xmi.task(write(folder, instruction=None, items=[{"input": "a", "output": "b"}]))
    with pytest.raises(xmi.TaskError, match="no test items"):
        bare.queries()
    with pytest.raises(xmi.TaskError, match="no instruction"):
        bare.instruction()
    with pytest.raises(xmi.TaskError, match="has no image"):
        bare.queries("image", split="train")
