"""What a study does follows from what its models and tasks can do, and is settled before anything is computed."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xmi
from analyses.benchmarks.published import LAST_EXAMPLE, QUERY, Published, hit
from tests.study.published import pieces
from tests.zoo.world import make_world
from xmi.report import render, similarity_page
from xmi.study import StudyResults, dry_run
from xmi.study.prepare import prepare

SMALL: dict[str, Any] = {"shots": 2, "prompts": 4, "seeds": (0,), "points": 4}
TEXT_ALONE = ("text ICL", "instruction", "text ICL + instruction", "1 example + instruction", "1 example")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, tasks with images, `capital-words.json` and `name-words.json` without, `half.json` with some."""
    root = make_world(tmp_path_factory.mktemp("world"))
    for name in ("capital", "name"):
        content = json.loads((root / f"{name}.json").read_text(encoding="utf-8"))
        for item in content["items"]:
            del item["image"]
        (root / f"{name}-words.json").write_text(json.dumps(content | {"name": f"{name} in words"}), encoding="utf-8")
        content["items"][0]["image"] = "0.png"
        (root / "half.json").write_text(json.dumps(content | {"name": "half"}), encoding="utf-8")
    return root


def tasks_of(root: Path, ending: str = "") -> list[str]:
    return [str(root / f"{name}{ending}.json") for name in ("capital", "name")]


BLIND = [
    pytest.param("base", "", "is a text-only model", marks=pytest.mark.fault("B11"), id="text-only model"),
    pytest.param("eye", "-words", "has an image", marks=pytest.mark.fault("B12"), id="tasks without images"),
]


@pytest.mark.parametrize(("model", "ending", "why"), BLIND)
def test_a_study_without_images_is_one_of_text_from_plan_to_report(
    world: Path, tmp_path: Path, model: str, ending: str, why: str
) -> None:
    asked = {"model": world / model, "tasks": tasks_of(world, ending), "out": tmp_path / "run", **SMALL}
    plan = prepare(**asked).plan
    assert (plan.sources, plan.targets, plan.modalities) == (TEXT_ALONE, ("text",), ("text",))
    assert why in dry_run(**asked).splitlines()[0]
    said: list[str] = []
    results = xmi.run(**asked, layers=(1,), controls=("random vector",), say=said.append)
    assert why in said[0]
    assert results.study["plan"]["sources"] == list(TEXT_ALONE)
    assert {cell for record in results.records() for cell in (record["source"], record["target"])}.isdisjoint(
        {"image", "image ICL"}
    )
    page = render(results, tmp_path / "report.html").read_text(encoding="utf-8")
    similarity_page(results, tmp_path / "similarity.html")
    assert "text query</th>" in page
    assert "image query</th>" not in page
    vlm = xmi.load(world / model)
    oracle = Published(vlm.model, vlm.encoder.tokenizer)
    for name in asked["tasks"]:
        prompts = xmi.task(name).icl("text", shots=2, n=4, seed=0)
        stored = results.vector(model, xmi.task(name).name, "text ICL")
        assert (stored.values - oracle.vector([pieces(p) for p in prompts])).abs().max() <= 1e-5


@pytest.mark.fault("B11", "B12")
@pytest.mark.parametrize(
    ("model", "ending", "changes", "error", "said"),
    [
        ("base", "", {"targets": ("text", "image")}, xmi.RunError, "base is a text-only model.*'image'"),
        ("base", "", {"sources": ("text ICL", "image ICL")}, xmi.RunError, "text-only.*source 'image ICL'"),
        ("eye", "-words", {"targets": ("image",)}, xmi.RunError, "No item of capital.* has an image.*'image'"),
        ("eye", "-words", {"sources": ("text ICL + image ICL",)}, xmi.RunError, "source 'text ICL . image ICL'"),
        ("eye", "", {"control": "base"}, xmi.ModelError, "base is a text-only model"),
        ("eye", "half", {}, xmi.TaskError, "7 item.s. without an image"),
    ],
)
def test_images_that_cannot_be_had_are_refused_where_they_are_asked_for(
    world: Path, tmp_path: Path, model: str, ending: str, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    tasks = [str(world / "half.json")] if ending == "half" else tasks_of(world, ending)
    given = {name: world / value if name == "control" else value for name, value in changes.items()}
    asked = {"model": world / model, "tasks": tasks, "out": tmp_path / "run", **SMALL, **given}
    for do in (xmi.run, dry_run):
        with pytest.raises(error, match=said):
            do(**asked)
    assert not (tmp_path / "run").exists()


def test_text_asked_of_a_seeing_model_takes_no_images(world: Path, tmp_path: Path) -> None:
    given = {"sources": ("text ICL",), "targets": ("text",)}
    tasks = [str(world / "half.json")]
    plan = prepare(model=world / "eye", tasks=tasks, out=tmp_path / "run", **SMALL, **given).plan
    assert plan.modalities == ("text",)


LAST = "example[-1].delimiter"


def published_way(out: Path, *tasks: str, **plan: Any) -> StudyResults:
    """A study with vectors read before the last example's label, patched in at the query's prefix."""
    small = {"tasks": tasks, "shots": 2, "prompts": 3, "seeds": (0,), "controls": (), "whole": False}
    sources = {"sources": ("text ICL", "instruction"), "targets": ("text",), "layers": (1, 2, 3)}
    return xmi.run("organism", out=out, slot=LAST, patch_slot="query.prefix", **small, **sources, **plan)


@pytest.mark.fault("B13")
def test_vectors_are_read_and_patched_where_the_plan_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held to the published algorithm: `Q:` has a delimiter token as `A:` has, so the prefix is the last but one."""
    results, vlm = published_way(tmp_path / "run", "country-currency", experiments=()), xmi.load("organism")
    oracle = Published(vlm.model, vlm.encoder.processor)
    sweep = results.transfer("organism", "text")
    right = Published.slot
    for task in map(xmi.task, results.tasks):
        prompts = [pieces(p) for p in task.icl("text", shots=2, n=3, seed=0)]
        told = [pieces(p) for p in task.instruction()]
        for source, given, match in (("text ICL", prompts, LAST_EXAMPLE), ("instruction", told, QUERY)):
            stored, expected = results.vector("organism", task.name, source), oracle.vector(given, match)
            assert stored.card.slot == (LAST if match == LAST_EXAMPLE else "last")
            assert (stored.values - expected).abs().max() <= 1e-5, source
            monkeypatch.setattr(Published, "slot", lambda self, inputs, match=-2: right(self, inputs, match))
            queries = list(task.queries("text"))[:4]
            answers = [oracle.patch(pieces(p), expected, sweep.layers) for p in queries]
            hits = np.array([[hit(a, p.answer or "") for a in row] for p, row in zip(queries, answers, strict=True)]).T
            mine = [i for i, name in enumerate(sweep.tasks) if name == task.name][:4]
            assert (sweep.paper[sweep.sources.index(source)][:, mine] == hits).all(), (task.name, source)
            monkeypatch.undo()
    at_last = vlm.transfer(stored, to=task.queries("text"), layers=sweep.layers)
    theirs = [i for i, name in enumerate(sweep.tasks) if name == task.name]
    moved = sweep.log_probability[sweep.sources.index("instruction")][:, theirs] - at_last.log_probability[0]
    assert np.abs(moved).max() > 0.1, "another slot gives other answers"


def test_experiments_are_done_at_the_slots_too(tmp_path: Path) -> None:
    results, vlm = published_way(tmp_path / "run", "country-currency", "country-capital"), xmi.load("organism")
    one, two = map(xmi.task, ("country-currency", "country-capital"))
    options = {"shots": 2, "n": 3, "layers": (1, 2, 3)}
    found = results.overriding("organism")
    there, elsewhere = (
        vlm.override(one, two, **options, **places) for places in ({"slot": LAST, "patch_slot": "query.prefix"}, {})
    )
    rows = [i for i, (a, b) in enumerate(zip(found.tasks, found.others, strict=True)) if (a, b) == (one.name, two.name)]
    assert tuple(tuple(run[i] for i in rows) for run in found.predicted) == there.predicted != elsewhere.predicted
    curve = results.ensembling("organism", "text")
    sizes = {"prompts": (1, 2, 3), "seeds": (0,), "queries": ["text"]}
    again, other = (
        vlm.ensembling_of([one, two], **sizes, **places)[0]
        for places in ({"slot": LAST, "patch_slot": "query.prefix"}, {})
    )
    np.testing.assert_array_equal(curve.paper, again.paper)
    assert not np.array_equal(curve.paper, other.paper)


@pytest.mark.fault("B13", "C6")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slot": "end"}, "slot 'end'.*text ICL"),
        ({"slot": "example[-1]"}, "Cannot read slot"),
        ({"slot": "example[2].delimiter"}, r"no slot 'example\[2\].delimiter'"),
        ({"slot": "example[1].delimiter", "sources": ("1 example",)}, "1 example prompts"),
        ({"patch_slot": "example[0].delimiter"}, "text queries"),
        ({"slot": "example[-2].delimiter"}, "text ICL and control: unrelated slot would be read at the same token"),
        ({"layers": (0, 99)}, "layers 0 to 3; the plan also asks for 99"),
        ({"layers": (-1,)}, "layers.0: .*found the number -1"),
    ],
)
def test_slots_and_layers_that_are_not_there_are_refused_at_once(
    world: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    asked = {"model": world / "eye", "tasks": tasks_of(world), "out": tmp_path / "run", **SMALL, **changes}
    for do in (xmi.run, dry_run):
        with pytest.raises((xmi.SlotError, xmi.RunError), match=said):
            do(**asked)
    assert not (tmp_path / "run").exists()


def test_each_way_of_studying_costs_what_its_dry_run_says(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (model, ending) in enumerate(product(("base", "eye"), ("-words",))):
        asked = {"model": world / model, "tasks": tasks_of(world, ending), "out": tmp_path / str(number), **SMALL}
        line = next(line for line in dry_run(**asked).splitlines() if line.startswith(f"{model}: "))
        vlm, count = xmi.load(world / model), 0
        vlm.engine.ways.update({f"last, {n}, text": "growing" for n in ("one", "more")})

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        vlm.model.register_forward_hook(counted)
        monkeypatch.setattr("xmi.study.work.load", lambda *_, vlm=vlm, **__: vlm)
        xmi.run(**asked, workers=1)
        assert line.startswith(f"{model}: {count} forwards")


def test_a_dry_run_and_a_study_of_an_adapter_take_its_base_for_what_it_is(world: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = xmi.load(world / "base").model
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**said, "base_model_name_or_path": str(world / "base")}), encoding="utf-8")
    asked = {"model": tmp_path / "adapter", "tasks": tasks_of(world), "out": tmp_path / "run", **SMALL}
    assert "adapter: " in dry_run(**asked)
    results = xmi.run(**asked, experiments=(), controls=())
    own, base = (
        xmi.load(source).task_vector(xmi.task(asked["tasks"][0]).icl("text", shots=2, n=4, seed=0))
        for source in (tmp_path / "adapter", world / "base")
    )
    stored = results.vector("adapter", own.card.task, "text ICL")
    assert (stored.values - own.values).abs().max() <= 1e-5 < (stored.values - base.values).abs().max()
    with pytest.raises(xmi.ModelError, match="is an adapter; a host"):
        xmi.load(tmp_path / "adapter", remote="http://127.0.0.1:1")


@pytest.mark.fault("C6")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda:77"}, "no device"),
        ({"device": "cpu", "device_map": "auto"}, "not both"),
        ({"dtype": "float7"}, "float7"),
        ({"quantization": "3bit"}, "3bit"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": 0}, "workers"),
        ({"bath_size": 4}, "Unknown: bath_size"),
        ({"tasks": ["country-capitol"]}, "No task"),
        ({"base": "organism-llm"}, "its vectors cannot be patched"),
    ],
)
def test_options_that_a_run_refuses_a_dry_run_refuses(
    world: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    asked = {"model": world / "eye", "tasks": tasks_of(world), "out": tmp_path / "run", **SMALL, **changes}
    for do in (xmi.run, dry_run):
        with pytest.raises(xmi.XmiError, match=said):
            do(**asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("C6")
def test_a_folder_that_holds_another_study_is_refused_by_the_dry_run_too(world: Path, tmp_path: Path) -> None:
    asked = {"model": world / "base", "tasks": tasks_of(world), "out": tmp_path / "run", **SMALL}
    quick = {"experiments": (), "controls": (), "layers": (1,), "sources": ("text ICL",)}
    xmi.run(**asked, **quick)
    dry_run(**asked, **quick)
    before = sorted((tmp_path / "run").rglob("*"))
    for do in (xmi.run, dry_run):
        with pytest.raises(xmi.RunError, match="shots: 2 -> 1"):
            do(**{**asked, **quick, "shots": 1})
    assert sorted((tmp_path / "run").rglob("*")) == before
