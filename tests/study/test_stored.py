"""A run folder is what its files say: changed models and tasks, damaged, swapped and foreign files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import xmi
from tests.study.damage import HARMS, SMALL, harm, loaded_once, study, unfinished, verdict
from tests.study.kill import files
from tests.study.sealing import content_of, rewrite
from tests.zoo.world import make_world
from xmi.storage import UNFINISHED
from xmi.study import StudyResults, work
from xmi.study import run as runner
from xmi.study.folder import FINISHED, STUDY
from xmi.study.grid import KINDS, OF_A_TASK, Cell, slug
from xmi.study.sealed import seal, unseal

BASED: dict[str, object] = {"sources": ("text ICL", "image ICL", "base LLM text ICL"), "controls": (), "layers": (1,)}
"""A study with a base LLM, whose folder is the world's."""


def marked(case: Any, row: str) -> Any:
    """A case that holds a row of the known faults."""
    return pytest.param(case, marks=pytest.mark.fault(row))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return study(world, tmp_path_factory.mktemp("runs") / "whole", **BASED)


@pytest.fixture(autouse=True)
def _models_in_memory() -> Iterator[None]:
    with loaded_once():
        yield


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    """The world, to be changed."""
    return Path(shutil.copytree(world, tmp_path / "world"))


def copy(whole: StudyResults, out: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(whole.path, out))


def edit_weight(folder: Path) -> None:
    """Changes a single weight in the middle of a file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].size)
    changed = tensors[name].copy()
    changed.flat[changed.size // 2] += 0.5
    save_file({**tensors, name: changed}, path, metadata={"format": "pt"})


def edit_task(**changes: object) -> Callable[[Path], None]:
    """Changes a field of a task's first test item."""

    def edit(root: Path) -> None:
        content = json.loads((root / "name.json").read_text())
        next(item for item in content["items"] if item["split"] == "test").update(changes)
        (root / "name.json").write_text(json.dumps(content))

    return edit


def edit_image(root: Path) -> None:
    """Changes one pixel of an image."""
    with Image.open(root / "7.png") as picture:
        pixels = np.array(picture)
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(root / "7.png")


def edit_instruction(root: Path) -> None:
    path = root / "name.json"
    path.write_text(path.read_text().replace("The capital:", "The name:"))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight": (lambda root: edit_weight(root / "eye"), r"model eye: sha256:\w+ -> sha256:\w+"),
    "a weight of the base LLM": (
        lambda root: edit_weight(root / "base"),
        r"model eye base LLM: sha256:\w+ -> sha256:\w+",
    ),
    "a label": (edit_task(output="Nobody"), r"task <b>name: \w+ -> \w+"),
    "a pixel": (edit_image, r"task <b>(name|capital): \w+ -> \w+"),
    "an instruction": (edit_instruction, r"task <b>name: \w+ -> \w+"),
}


@pytest.mark.parametrize("what", [marked(n, "A5") if n in ("a weight", "a pixel") else n for n in CHANGES])
def test_nothing_is_complete_with_other_models_or_tasks(world: Path, copied: Path, what: str, tmp_path: Path) -> None:
    """Finished or not: what changed under the same path is named, and neither used nor overwritten."""
    change, message = CHANGES[what]
    done = study(copied, tmp_path / "done", **BASED).path
    begun, before = unfinished(done, tmp_path / "begun"), files(done)
    change(copied)
    for folder in (done, begun):
        with pytest.raises(xmi.RunError, match=f"study.json is of another study(.|\n)*{message}(.|\n)*--fork"):
            study(copied, folder, **BASED)
    assert files(done) == before


def test_a_changed_model_may_be_studied_beside(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = study(copied, out)
    edit_weight(copied / "eye")
    work.load.cache_clear()  # type: ignore[attr-defined]
    beside = study(copied, out, fork=True)
    assert beside.path.parent == tmp_path
    assert beside.path.name.startswith("run-")
    assert beside.study["identity"]["models"] != first.study["identity"]["models"]
    assert study(copied, out, fork=True).path == beside.path


@pytest.mark.fault("A5")
def test_options_of_loading_are_part_of_a_study(world: Path, whole: StudyResults) -> None:
    with pytest.raises(xmi.RunError, match="option batch_size: not there -> 3"):
        study(world, whole.path, **BASED, batch_size=3)
    assert study(world, whole.path, **BASED, batch_size=16, device="cpu").path == whole.path, "as if left out"


@pytest.mark.fault("E6")
def test_what_is_made_from_cells_is_made_anew_without_a_model(
    world: Path, whole: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    expected = files(whole.path)
    for number, name in enumerate(("tables/eye.summary.csv", "results/eye.silhouette.json", "records.jsonl", FINISHED)):
        out = copy(whole, tmp_path / str(number))
        (out / name).unlink()
        with pytest.raises(xmi.RunError, match=name.split("/")[-1] if name != FINISHED else "unfinished"):
            StudyResults(out)
        study(world, out, **BASED)
        assert files(out) == expected
        said: list[str] = []
        study(world, out, **BASED, say=said.append)
        assert said == [f"{out} is complete: nothing to compute."]


def test_a_missing_vector_is_read_again(world: Path, whole: StudyResults, tmp_path: Path) -> None:
    out, said = copy(whole, tmp_path / "run"), list[str]()
    next(iter(sorted((out / "vectors").iterdir()))).unlink()
    study(world, out, **BASED, say=said.append)
    assert files(out) == files(whole.path)
    assert sum(line.endswith("computed again") for line in said) == 1
    assert sum("done before" in line for line in said) == sum(line.startswith("[") for line in said) - 1


def swap(one: Path, other: Path) -> None:
    """Exchanges two files."""
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


SWAPS = {
    "vectors of two tasks": ("vectors", "*text-ICL*"),
    "cells of two tasks": ("cells", "*.read.json"),
    "answers of two tasks": ("cells", "*.ask.json"),
    "records of two tasks": ("cells", "*.records.jsonl"),
    "points of two tasks": ("cells", "*.safetensors"),
    "images": ("images", "*.png"),
}


@pytest.mark.parametrize(
    "what", [marked(n, "E2") if n in ("vectors of two tasks", "cells of two tasks") else n for n in SWAPS]
)
def test_swapped_files_are_found_out(world: Path, whole: StudyResults, tmp_path: Path, what: str) -> None:
    folder, pattern = SWAPS[what]
    out = copy(whole, tmp_path / "run")
    swap(*sorted((out / folder).glob(pattern))[:2])
    study(world, out, **BASED)
    assert files(out) == files(whole.path)


def test_files_of_another_run_are_found_out(world: Path, whole: StudyResults, tmp_path: Path) -> None:
    other = study(world, tmp_path / "other", **BASED, shots=1).path
    out = copy(whole, tmp_path / "run")
    shutil.copy(other / STUDY, tmp_path)
    for path in (p for name in ("cells", "vectors") for p in (other / name).iterdir()):
        shutil.copy(path, out / path.relative_to(other))
    study(world, out, **BASED)
    assert files(out) == files(whole.path)
    shutil.copytree(whole.path / "results", other / "results", dirs_exist_ok=True)
    with pytest.raises(xmi.RunError, match=r"another file"):
        StudyResults(other)
    shutil.copytree(whole.path, other, dirs_exist_ok=True)
    shutil.copy(tmp_path / STUDY, other)
    with pytest.raises(xmi.RunError, match=r"index\.json is of another study than .*study\.json"):
        StudyResults(other)


@pytest.mark.fault("E2")
def test_without_its_study_a_folder_continues_only_the_same_one(
    world: Path, whole: StudyResults, tmp_path: Path
) -> None:
    out = copy(whole, tmp_path / "run")
    (out / STUDY).unlink()
    before = files(out)
    with pytest.raises(xmi.RunError, match=r"holds cells of another study(.|\n)*cells.*\.json"):
        study(world, out, **BASED, shots=1)
    assert files(out) == before
    study(world, out, **BASED)
    assert files(out) == files(whole.path)
    assert content_of(out / STUDY)["plan"] == content_of(whole.path / STUDY)["plan"]


@pytest.mark.fault("E2")
def test_a_cell_made_from_other_results_is_made_again(world: Path, whole: StudyResults, tmp_path: Path) -> None:
    """A cell that is whole, but whose vectors are not those that its queries were patched with."""
    out = copy(whole, tmp_path / "run")
    read = next(iter(sorted((out / "cells").glob("*.read.json"))))
    rewrite(read, made_with={"torch": "0.1"})
    said: list[str] = []
    study(world, out, **BASED, say=said.append)
    assert any("made from other results: computed again" in line for line in said)
    assert (
        study(world, out, **BASED)
        .study["provenance"]["versions"]["torch"]
        .startswith(("0.1 (1 cells), ", whole.study["provenance"]["versions"]["torch"] + " ("))
    )


@pytest.mark.fault("E4")
def test_versions_that_change_in_a_run_are_recorded_by_cell(
    world: Path, whole: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = unfinished(whole.path, tmp_path / "run"), list[str]()
    known = runner.versions()
    for module in (runner, work):
        monkeypatch.setattr(module, "versions", lambda: known | {"torch": "99.0"})
    results = study(world, out, **BASED, say=said.append)
    assert any(f"torch {known['torch']} -> 99.0" in line for line in said)
    cells = len(list((out / "cells").glob("*.json")))
    told = results.study["provenance"]["versions"]
    assert told["torch"] == f"{known['torch']} ({cells - 2} cells), 99.0 (2 cells)"
    assert told["numpy"] == known["numpy"]
    assert content_of(out / STUDY)["provenance"]["versions"]["torch"] == known["torch"]


@pytest.mark.fault("E5")
def test_only_own_unfinished_files_are_removed_and_only_from_runs(
    world: Path, whole: StudyResults, tmp_path: Path
) -> None:
    own = UNFINISHED.replace("*", "1-ab")
    out = copy(whole, tmp_path / "run")
    strangers = [".notes.tmp", "mine/.a.tmp", f"mine/{own}", "cells/.swp.12.tmp", "vectors/x.tmp"]
    for name in [*strangers, own, f"cells/{own}"]:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("something")
    study(world, out, **BASED)
    assert not (out / own).exists()
    assert not (out / "cells" / own).exists()
    assert all((out / name).read_text() == "something" for name in strangers)
    for number, held in enumerate(('{"format": 2, "plan": {}}', "[", '{"format": 4}', None)):
        folder = tmp_path / f"no run {number}"
        (folder / "cells").mkdir(parents=True)
        (folder / "cells" / own).write_text("something")
        if held is not None:
            (folder / STUDY).write_text(held)
            with pytest.raises(xmi.RunError, match=r"study\.json"):
                study(world, folder, **BASED)
            assert sorted(path.name for path in folder.iterdir()) == ["cells", STUDY], "nothing is made in it"
        else:
            study(world, folder, **BASED, seeds=(1,))
        assert (folder / "cells" / own).exists()


@pytest.mark.parametrize(
    "begun", [pytest.param(False, marks=pytest.mark.fault("E14")), True], ids=["finished", "begun"]
)
def test_a_damaged_file_is_made_anew_or_named(world: Path, whole: StudyResults, tmp_path: Path, begun: bool) -> None:
    """A sample; `python -m tests.study.damage` does all files."""
    expected, other = files(whole.path), study(world, tmp_path / "other", **BASED, seeds=(1,)).path
    base = unfinished(whole.path, tmp_path / "begun") if begun else whole.path
    kinds = ["cells/*.read.json", "cells/*.records.jsonl", "vectors/*", STUDY]
    kinds += [] if begun else ["results/eye.phases*", FINISHED, "images/*", "tables/*"]
    for number, kind in enumerate(kinds):
        name = str(next(iter(sorted(base.glob(kind)))).relative_to(base))
        how = HARMS[number % len(HARMS)]
        out = tmp_path / f"damaged {number}"
        shutil.copytree(base, out)
        assert harm(out / name, how, other), (name, how)
        if not begun:
            read = verdict(lambda out=out: StudyResults(out), out, name, None)
            assert read == ("read" if name.startswith(("cells", "vectors")) else "named"), (name, how)
        found = verdict(lambda out=out: study(world, out, **BASED), out, name, expected)
        assert found == ("named" if name == STUDY else "byte-equal"), (name, how)


@pytest.mark.parametrize(
    "content",
    [b"", marked(b"[" * 100_000, "E14"), b"\xff\xfe", b"null", b'{"format": 2}'],
    ids=["empty", "deep", "bytes", "null", "old"],
)
def test_what_is_no_run_is_refused_by_name(world: Path, whole: StudyResults, tmp_path: Path, content: bytes) -> None:
    out = copy(whole, tmp_path / "run")
    (out / STUDY).write_bytes(content)
    for use in (StudyResults, lambda folder: study(world, folder, **BASED)):
        with pytest.raises(xmi.RunError, match=r"study\.json"):
            use(out)
    shutil.copy(whole.path / STUDY, out)
    (out / FINISHED).write_bytes(content)
    with pytest.raises(xmi.RunError, match=r"index\.json"):
        StudyResults(out)
    next(iter((out / "cells").glob("*.geometry.json"))).write_bytes(content)
    study(world, out, **BASED)
    assert files(out) == files(whole.path)


@pytest.mark.fault("A11")
def test_a_model_may_be_called_anything(copied: Path, tmp_path: Path, whole: StudyResults) -> None:
    """Roles are not read from names: a model whose name ends like a role keeps its weights."""
    plain = whole.transfer("eye", "text").log_probability
    for name in ("eye untrained", "Ä" * 100):
        (copied / "eye").rename(copied / name)
        options = {**BASED, "sources": ("text ICL",), "experiments": (), "base": None}
        tasks = [str(copied / f"{task}.json") for task in ("capital", "name")]
        found = xmi.run(copied / name, out=tmp_path / "runs" / name, tasks=tasks, **(SMALL | options))
        assert found.models == (name,)
        assert found.study["provenance"]["models"][name]["role"] == "model"
        np.testing.assert_array_equal(found.transfer(name, "text").log_probability[0], plain[0])
        (copied / name).rename(copied / "eye")


@pytest.mark.fault("A11")
def test_names_that_are_equal_or_nearly_are_refused(world: Path, tmp_path: Path) -> None:
    for name, options in (
        ("Eye", {}),
        ("eye untrained", {"untrained": True}),
        ("eye base LLM", {"base": world / "base"}),
    ):
        (tmp_path / name).symlink_to(world / "eye")
        with pytest.raises(xmi.RunError, match=f"both called {name}, and results are stored by name"):
            study(world, tmp_path / "run", control=tmp_path / name, **options)


@pytest.mark.fault("A11")
def test_tasks_may_be_called_anything(copied: Path, tmp_path: Path) -> None:
    names = ("all", "lens", "paper", "n" * 200, "../a.b", "Ä · ü", "ä · ü")
    tasks = []
    for k, name in enumerate(names):
        content = json.loads((copied / "name.json").read_text()) | {"name": name}
        file = copied / (f"{'x' * 225}{k}.json" if k % 2 else f"X.{k}.json")
        file.write_text(json.dumps(content))
        tasks.append(str(file))
    found = xmi.run(copied / "eye", out=tmp_path / "run", tasks=tasks, **SMALL)
    assert found.by_task("eye").task.unique().tolist() == list(names)
    assert {record["task"] for record in found.records()} == set(names)
    assert found.vector("eye", "../a.b", "text ICL").card.task == "../a.b"
    assert set(found.vectors["task"]) == set(names)
    assert found.plan.tasks == tuple(found.study["plan"]["tasks"])
    assert found.vectors["file"].map(lambda file: (found.path / file).is_file()).all()
    patched = found.accuracy(method="patch", task="../a.b").iloc[0]
    assert found.chosen_layer(patched["source"], patched["target"], task="../a.b") == patched["own_layer"]
    with pytest.raises(xmi.RunError, match="has no vector of eye, task a"):
        found.vector("eye", "a", "text ICL")
    assert all(len(path.name) < 150 for path in found.path.rglob("*"))
    assert {path.name for path in found.path.iterdir()} <= {
        "cells", "vectors", "images", "tables", "results", "records.jsonl", STUDY, ".lock",
    }  # fmt: skip


@pytest.mark.fault("A17")
def test_unknown_cells_are_refused() -> None:
    for kind in ("", "Read", "override", "all"):
        with pytest.raises(xmi.RunError, match="Unknown kind of cell"):
            Cell(kind, "eye", None, 0)
    for kind in KINDS:
        with pytest.raises(xmi.RunError, match="is about"):
            Cell(kind, "eye", None if kind in OF_A_TASK else "capital", 0)


@pytest.mark.fault("A11")
def test_file_names_of_different_names_differ_on_any_file_system() -> None:
    names = [
        "a",
        "A",
        "a b",
        "a-b",
        "a/b",
        "a.b",
        "ä",
        "a" * 60,
        "a" * 61,
        "a" * 230,
        "",
        ".",
        "..",
        "con ",
        slug("a b"),
    ]
    found = [slug(name) for name in names]
    assert len({name.casefold() for name in found}) == len(names)
    assert all(len(name) < 70 and name.isascii() and "/" not in name and name[0] != "." for name in found)
    assert slug("country-capital") == "country-capital"
    assert slug("llava-1.5-7b-hf", ".") == "llava-1.5-7b-hf"


@pytest.mark.fault("E2")
def test_a_seal_holds_every_byte() -> None:
    sealed = seal({"format": 3, "x": [1.5, float("nan"), "é", {}]})
    assert str(unseal(sealed)) == str({"format": 3, "x": [1.5, float("nan"), "é", {}]})
    for place in range(len(sealed)):
        for bit in (1, 32, 128):
            with pytest.raises(ValueError, match="digest"):
                unseal(sealed[:place] + bytes([sealed[place] ^ bit]) + sealed[place + 1 :])
    for shorter in range(len(sealed)):
        with pytest.raises(ValueError, match="digest"):
            unseal(sealed[:shorter])
