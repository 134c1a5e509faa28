"""A study of a revision of the Hub: what is read is that revision's, and another one's run is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import xmi
from tests.zoo.world import make_world
from xmi.study.plan import make_plan
from xmi.study.prepare import prepare

OLD, NEW = "a" * 40, "b" * 40
SMALL: dict[str, Any] = {
    "sources": ("text ICL", "base LLM text ICL"), "targets": ("text",), "controls": (), "experiments": (),
    "shots": 2, "prompts": 3, "points": 3, "seeds": (0,), "layers": (1,),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside models and tasks a cache of the Hub with two commits of both models; `main` is the old one."""
    root = make_world(tmp_path_factory.mktemp("world"))
    for name in ("eye", "base"):
        repo = root / "hub" / f"models--org--{name}"
        for commit in (OLD, NEW):
            shutil.copytree(root / name, repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(OLD)
        (repo / "refs" / "later").write_text(NEW)
        vlm = xmi.load(root / name, check=False)
        with torch.no_grad():
            vlm.model.get_submodule(vlm.backbone.norm).weight.mul_(1.5)
            vlm.model.get_submodule(vlm.backbone.embed).weight.mul_(1.5)
        vlm.model.save_pretrained(repo / "snapshots" / NEW)
    return root


@pytest.fixture(autouse=True)
def hub(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(world / "hub"))


def test_a_study_is_of_the_revisions_that_it_names(world: Path, tmp_path: Path) -> None:
    task, other = (str(world / f"{name}.json") for name in ("capital", "name"))
    plan = {"model": "org/eye", "base": "org/base", "tasks": [task, other], "out": tmp_path / "run", **SMALL}
    results = xmi.run(**plan, revision="later", base_revision=NEW)
    found = results.study["identity"]["models"]
    assert {name: said.partition("+")[0] for name, said in found.items()} == {"eye": NEW, "eye base LLM": NEW}
    prompts = xmi.task(task).icl("text", shots=2, n=3, seed=0)
    for name, source in (("org/eye", "text ICL"), ("org/base", "base LLM text ICL")):
        stored = results.vector("eye", xmi.task(task).name, source).values
        new, old = (xmi.load(name, revision=one).task_vector(prompts).values for one in (NEW, OLD))
        assert torch.equal(stored, new), f"{source} is the asked revision's"
        assert not torch.allclose(stored, old, atol=1e-3)
    with pytest.raises(xmi.RunError, match=r"(?s)revision: 'later' -> None.*model eye: b{40}.* -> a{40}"):
        xmi.run(**plan, base_revision=NEW)
    with pytest.raises(xmi.RunError, match=r"base_revision: 'b{40}' -> 'later'"):
        xmi.run(**plan, revision="later", base_revision="later")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"model": "organism"}, xmi.ModelError, "revision='later' is one of the Hub's; 'organism' is a folder here"),
        ({"model": "organism", "remote": "http://127.0.0.1:9"}, xmi.ModelError, "'organism' is a folder here"),
        ({"model": "org/eye", "control": "organism", "control_revision": "x"}, xmi.ModelError, "revision='x' is one"),
        ({"model": "org/eye", "base_revision": "x"}, xmi.RunError, "base_revision: there is no base"),
        ({"model": "org/eye", "control_revision": "x"}, xmi.RunError, "control_revision: there is no control"),
        ({"model": "org/eye", "revision": "nonsense"}, xmi.ModelError, "Cannot load 'org/eye'"),
    ],
)
def test_revisions_that_there_cannot_be_are_refused(
    world: Path, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        prepare(**{"revision": "later", "shots": 2, "tasks": [str(world / "capital.json")], **given})


def test_a_plan_without_revisions_is_the_text_that_it_was() -> None:
    plan, named = (make_plan(model="m", tasks=("t",), **given) for given in ({}, {"revision": "v1"}))
    assert not any("revision" in text for text in (plan.model_dump_json(), *plan.model_dump()))
    assert named.model_dump()["revision"] == "v1" and named.hash != plan.hash
    assert plan.differences(named) == ["revision: 'v1' -> None"]
