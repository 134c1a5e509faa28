"""A study in a chat frame: one key, the same numbers as by hand, and a run of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import xmi
from tests.zoo.chat import CHATML, VICUNA
from tests.zoo.world import make_world
from xmi.prompt import Template
from xmi.study.plan import make_plan
from xmi.study.prepare import prepare

SMALL: dict[str, Any] = {
    "sources": ["text ICL"], "targets": ["text"], "seeds": [0], "prompts": 4, "shots": 2, "experiments": [],
    "controls": ["unrelated slot"], "say": lambda line: None, "on": "serial", "points": 4,
}  # fmt: skip


def test_a_study_with_chat_frames_its_prompts(tmp_path: Path) -> None:
    make_world(tmp_path)
    (tmp_path / "eye" / "chat_template.jinja").write_text(CHATML.replace("IMAGE", "<image>"), encoding="utf-8")
    world = {"tasks": [str(tmp_path / "capital.json")], "device": "cpu", "dtype": "float32"}
    results = xmi.run(tmp_path / "eye", out=tmp_path / "run", chat=True, **world, **SMALL)
    vlm, framed = (
        xmi.load(tmp_path / "eye", device="cpu", dtype="float32"),
        xmi.task(tmp_path / "capital.json", template=Template.chat()),
    )
    text = results.vector("eye", framed.name, "text ICL")
    own = vlm.task_vector(framed.icl("text", shots=2, n=4))
    assert (text.values == own.values).all() and text.card.template == own.card.template
    study = json.loads((tmp_path / "run" / "study.json").read_text("utf-8"))
    assert study["plan"]["chat"] is True
    shown = {"".join(part["text"] for part in record["prompt"]) for record in results.records()}
    assert any(text.startswith("user: ") and text.endswith("\nassistant:") for text in shown)
    with pytest.raises(xmi.RunError, match=r"chat"):
        xmi.run(tmp_path / "eye", out=tmp_path / "run", **world, **SMALL)
    with pytest.raises(xmi.PromptError, match=r"base cannot do a study with chat: .* no chat template"):
        xmi.run(tmp_path / "base", out=tmp_path / "other", chat=True, **world, **SMALL)


def test_a_base_llm_must_write_what_the_model_writes(tmp_path: Path) -> None:
    make_world(tmp_path)
    (tmp_path / "eye" / "chat_template.jinja").write_text(CHATML.replace("IMAGE", "<image>"), encoding="utf-8")
    given = {"tasks": [str(tmp_path / "capital.json")], "base": str(tmp_path / "base"), "chat": True, "shots": 2}
    for template, fits in ((CHATML, True), (VICUNA, False)):
        (tmp_path / "base" / "chat_template.jinja").write_text(template, encoding="utf-8")
        if fits:
            assert prepare(model=str(tmp_path / "eye"), **given, prompts=4).plan.chat
        else:
            with pytest.raises(xmi.PromptError, match="write other texts around inputs"):
                prepare(model=str(tmp_path / "eye"), **given, prompts=4)


def test_a_plan_without_chat_is_the_text_it_was() -> None:
    plain = make_plan(model="m", tasks=["a"])
    assert "chat" not in plain.model_dump() and make_plan(model="m", tasks=["a"], chat=False).hash == plain.hash
    assert make_plan(model="m", tasks=["a"], chat=True).hash != plain.hash
