"""Several models in one plan: each is studied as if it were alone, and one that fails does not stop the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import xmi
from tests.study.kill import files
from xmi import cli
from xmi.errors import RunError
from xmi.studies import studies_of

PLAN = {
    "tasks": ["country-capital"],
    "sources": "text ICL",
    "targets": "text",
    "controls": "random vector",
    "experiments": "none",
    "seeds": 1,
    "prompts": 4,
    "workers": 1,
}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    models = ["organism-llm", "no-such-model", "organism-control"]
    Path("plan.yaml").write_text(yaml.safe_dump({**PLAN, "model": models, "out": "runs/all"}), encoding="utf-8")
    return Path("plan.yaml")


def test_each_model_has_its_own_folder_and_a_failure_is_told_at_the_end(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["xmi", "run", "--plan", str(plan)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "1 of 3 models failed:\nno-such-model: ModelError: " in said.err
    for model in ("organism-llm", "organism-control"):
        assert str(Path("runs/all", model, "report.html").resolve()) in said.out
        xmi.run(model, out=Path("alone", model), plan=plan)
        ours = files(Path("runs/all", model))
        assert ours.pop("report.html") and ours.pop("similarity.html")
        assert ours == files(Path("alone", model))
    assert not Path("runs/all/no-such-model").exists()


def test_what_is_given_stands_before_the_file(plan: Path) -> None:
    assert studies_of(plan, model="organism") == [{"plan": plan, "model": "organism"}]
    both = studies_of(plan, model=["a/b", "c"], out="x")
    assert both == [{"plan": plan, "model": "a/b", "out": "x/b"}, {"plan": plan, "model": "c", "out": "x/c"}]


@pytest.mark.parametrize(
    ("models", "said"),
    [(["a/m", "b/M"], "both be stored in the folder M"), ([], "found nothing"), (["a", 3], "found the number 3")],
)
def test_lists_that_are_no_list_of_models_are_refused(models: list[object], said: str) -> None:
    with pytest.raises(RunError, match=said):
        studies_of(model=models)


def test_a_study_is_of_one_model(plan: Path) -> None:
    with pytest.raises(RunError, match="A study is of one model"):
        xmi.run(plan=plan)
