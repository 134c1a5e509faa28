"""Plans: what they may hold, what they cost, and what a study does by them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xmi
from tests.study.test_study import run
from tests.zoo.world import make_world
from xmi.loading import untrained
from xmi.prompt import load_task
from xmi.study import CONTROLS, SOURCES, dry_run
from xmi.study.controls import BEFORE, derangement, shuffled
from xmi.study.estimate import cost_of
from xmi.study.experiments.queries import patched_vectors
from xmi.study.grid import Cell
from xmi.study.plan import make_plan, read_plan
from xmi.study.prepare import prepare
from xmi.study.prompts import reads


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def fields(world: Path, **changes: Any) -> dict[str, Any]:
    tasks = [str(world / f"{t}.json") for t in ("capital", "name")]
    options = {"base": world / "base", "tasks": tasks, "shots": 2, "prompts": 4, "seeds": (0, 1), "points": 4}
    return {"model": world / "eye", "out": world / "run", **options, **changes}


def test_a_plan_file_is_what_flags_are(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    lines = [f"model: {world / 'eye'}", f"tasks: [{world / 'capital.json'}]", "shots: 2", "out: x", "batch_size: 2"]
    file.write_text("\n".join([*lines, "seeds: [3, 4]", "sources: [text ICL]", "controls: []"]))
    asked = prepare(file, shots=1, out=tmp_path / "y")
    plan = asked.plan
    assert (plan.shots, plan.seeds, plan.sources, plan.controls) == (1, (3, 4), ("text ICL",), ())
    assert asked.folder == tmp_path / "y", "what is given stands before the file"
    assert asked.loading == {"batch_size": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model: x\nshot: 3", "unknown keys: shot"),
        ("- model", "expected keys such as model and tasks, found a list"),
        ("model: [", "Cannot read .*plan.yaml"),
    ],
)
def test_faulty_plan_files_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "plan.yaml").write_text(content)
    with pytest.raises(xmi.RunError, match=said):
        read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": ("text", "image ICL")}, "unknown: text; known are text ICL"),
        ({"controls": ("noise",)}, "unknown: noise"),
        ({"sources": ("base LLM text ICL",)}, "need a base LLM"),
        ({"seeds": (1, 1)}, "seeds: .*distinct"),
        ({"targets": ("video",)}, "targets"),
        ({"score": "whole", "whole": False}, "needs whole: true"),
        ({"shots": 0, "prompts": 0}, "(?s)shots.*prompts"),
        ({"preset": "mine"}, "Unknown preset 'mine'"),
    ],
)
def test_faulty_plans_are_refused_with_all_faults(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(xmi.RunError, match=said):
        make_plan(**{"model": "m", "tasks": ("t",), **changes})


def test_a_model_must_be_named_and_a_folder_may_be() -> None:
    with pytest.raises(xmi.RunError, match="Which model"):
        prepare(out="x")
    assert prepare(model="organism").folder == Path("runs/study")


def test_without_a_base_llm_its_sources_are_left_out() -> None:
    plan = make_plan(model="m", tasks=("t",))
    assert plan.sources == tuple(s for s in SOURCES if not s.startswith("base LLM"))
    assert plan.controls == CONTROLS
    paper = make_plan("paper", model="m", tasks=("t",), base="b", shots=3)
    assert (paper.vectors_from, paper.controls, paper.shots) == ("validation", (), 3)


@pytest.mark.parametrize("changes", [{}, {"slot": "example[-1].delimiter", "patch_slot": "query.prefix"}])
def test_a_dry_run_counts_the_forwards_that_the_study_does(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    changes = {**changes, "out": tmp_path / "run"}
    asked = prepare(**fields(world, **changes))
    plan, tasks = asked.plan, asked.tasks
    vlms = {"eye": xmi.load(world / "eye"), "eye base LLM": xmi.load(world / "base")}
    expected = {name: cost_of(vlm, plan, tasks, name).forwards for name, vlm in vlms.items()}
    said = dry_run(**fields(world, **changes))
    for name, count in expected.items():
        assert f"{name}: {count} forwards" in said
    assert not (tmp_path / "run").exists()
    ways = {
        f"{s}, {n}, {m}": "growing" for s in ("last", "earlier") for n in ("one", "more") for m in ("text", "images")
    }
    done = Counter[str]()
    for name, vlm in vlms.items():
        vlm.engine.ways.update(ways)  # sweeps are proven before, so that only the study's own are counted
        vlm.model.register_forward_hook(lambda *_, name=name: done.update([name]))
    by_source = {str(world / "eye"): vlms["eye"], str(world / "base"): vlms["eye base LLM"]}
    monkeypatch.setattr("xmi.study.work.load", lambda source, **_: by_source[str(source)])
    xmi.run(**fields(world, **changes), workers=1)  # the hooks count in this process
    assert done == expected


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=8), st.integers(0, 99))
def test_labels_are_dealt_to_others_where_that_can_be(labels: list[str], seed: int) -> None:
    dealt = derangement(labels, random.Random(seed))
    assert Counter(dealt) == Counter(labels)
    most = max(Counter(labels).values())
    assert sum(a == b for a, b in zip(labels, dealt, strict=True)) == max(0, 2 * most - len(labels))


def test_controls_are_what_they_say(world: Path) -> None:
    plan = prepare(**fields(world)).plan
    task = load_task(plan.tasks[0])
    steps = {source: (step.prompts, slot) for step in reads(plan, task, seed=0) for source, slot in step.slots.items()}
    plain, mixed = steps["text ICL"][0], steps["control: shuffled labels"][0]
    for before, after in zip(plain, mixed, strict=True):
        one, two = ([s.text for s in p.segments if s.role == "answer"] for p in (before, after))
        assert one == two[::-1] != two
        rest = [replace(s, text="") for s in before.segments if s.role == "answer"]
        assert len(rest) == 2
        assert [s for s in before.segments if s.role != "answer"] == [s for s in after.segments if s.role != "answer"]
    assert shuffled(plain, 0) == mixed
    assert steps["control: unrelated slot"] == (plain, BEFORE)
    vlm = xmi.load(world / "eye")
    read = {
        name: {
            source: vlm.task_vector(step.prompts, slot=slot)
            for step in reads(plan, load_task(name), 0)
            for source, slot in step.slots.items()
            if not step.base
        }
        for name in plan.tasks
    }
    found = patched_vectors(plan, Cell("ask", "eye", plan.tasks[0], 0), read)
    own, other = (read[name]["text ICL"].values for name in plan.tasks)
    assert torch.equal(found["control: another task"].values, other)
    assert torch.equal(found["control: mean over tasks"].values, (own + other) / 2)
    np.testing.assert_allclose(found["control: random vector"].values.norm(dim=-1), own.norm(dim=-1), rtol=1e-5)
    assert not torch.equal(found["control: unrelated slot"].values, own)
    alone = patched_vectors(plan, Cell("ask", "eye", plan.tasks[0], 0), {plan.tasks[0]: read[plan.tasks[0]]})
    assert {"control: another task", "control: mean over tasks"}.isdisjoint(alone)


def test_an_untrained_model_has_other_weights_and_the_same_shape() -> None:
    trained, fresh = xmi.load("organism"), untrained("organism", seed=3)
    assert fresh.engine.dtype == trained.engine.dtype
    one, two = (dict(vlm.model.named_parameters()) for vlm in (trained, fresh))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    head = f"{trained.backbone.layers}.0."
    moved = [not torch.equal(one[k], two[k]) for k in one if k.startswith(head) and one[k].dim() > 1]
    assert moved
    assert all(moved)
    again = untrained("organism", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.model.parameters(), again.model.parameters(), strict=True))
    task = load_task("country-capital")
    prompts = task.icl("text", shots=5, n=5)
    assert trained.answers(prompts).accuracy().mean > fresh.answers(prompts).accuracy().mean


def test_each_task_may_have_its_own_layer(world: Path, tmp_path: Path) -> None:
    results = run(
        world, tmp_path / "run", seeds=(0,), sources=("text ICL",), controls=(), layers=(1, 3), untrained=True
    )
    assert results.models == ("eye", "eye untrained")
    test, validation = (results.transfer("eye", "image", split) for split in ("test", "validation"))
    (row,) = results.summary("eye").query("method == 'patch' and target == 'image'").to_dict("records")
    assert row["layer"] in (1, 3)
    chosen = [validation.of_task(t).best_layer for t in dict.fromkeys(test.tasks)]
    apart = results.by_task("eye").query("method == 'patch' and target == 'image'")
    assert apart.task.tolist() == list(dict.fromkeys(test.tasks))
    assert apart.own_layer.tolist() == chosen
    shares = []
    for task, layer in zip(dict.fromkeys(test.tasks), chosen, strict=True):
        hits = test.paper[0, test.layers.index(layer)]
        shares.append(np.mean([h for h, t in zip(hits, test.tasks, strict=True) if t == task]))
    assert row["by_task"] == pytest.approx(np.mean(shares))
    assert apart.own_accuracy.tolist() == pytest.approx(shares)
    assert row["whole"] == pytest.approx(test.accuracy("text ICL", row["layer"], "whole").mean)
