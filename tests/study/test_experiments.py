"""What a study does beyond the matrix: stored as the functions give it, and left out where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import xmi
from tests.study.test_study import run
from tests.zoo.world import make_world
from xmi.lens import TunedLens
from xmi.measure import Overriding
from xmi.prompt import load_task
from xmi.study import StudyResults, dry_run
from xmi.study.experiments import CHOSEN, FIRST, LAST, LISTED, registry
from xmi.study.experiments.ensembling import ensemble_sizes
from xmi.study.folder import FINISHED
from xmi.study.prepare import prepare
from xmi.vector import base_similarity, shared_pairs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks `capital` and `twin` share their inputs; `twin` has no task words."""
    root = make_world(tmp_path_factory.mktemp("world"))
    content = json.loads((root / "capital.json").read_text())
    outputs = [item["output"] for item in content["items"]]
    for item, output in zip(content["items"], outputs[1:] + outputs[:1], strict=True):
        item["output"] = output
    content |= {"name": "twin", "task_words": [], "instruction": "The other one:"}
    (root / "twin.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def results(world: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    tasks = [str(world / f"{name}.json") for name in ("capital", "twin")]
    return run(world, tmp_path_factory.mktemp("runs") / "run", tasks=tasks, controls=(), lens="tuned")


def test_overriding_and_ensembling_are_what_the_functions_give(world: Path, results: StudyResults) -> None:
    vlm, plan = xmi.load(world / "eye"), results.study["plan"]
    tasks = [load_task(name) for name in plan["tasks"]]
    expected = Overriding.concat([vlm.override(a, b, shots=2, n=4, seed=0) for a, b in shared_pairs(tasks)])
    assert len(set(zip(expected.tasks, expected.others, strict=True))) == 2
    found = results.overriding("eye")
    assert found.predicted == expected.predicted
    np.testing.assert_array_equal(found.paper, expected.paper)
    curve = vlm.ensembling(tasks, query="text", prompts=(1, 2, 3), seeds=(0, 1))
    np.testing.assert_array_equal(results.ensembling("eye", "text").paper, curve.paper)


def test_the_base_llm_is_compared_with_the_model(world: Path, results: StudyResults) -> None:
    assert (
        results.base_comparison("eye")
        .to_frame()
        .equals(
            xmi.load(world / "eye")
            .compare_base(
                xmi.load(world / "base"),
                [
                    p
                    for name in results.study["plan"]["tasks"]
                    for p in load_task(name).icl("text", shots=2, n=4, seed=0)
                ],
            )
            .to_frame()
        )
    )
    own, base = (
        [xmi.TaskVector.load(p) for p in sorted(results.path.glob(f"vectors/eye.0.*{kind}*.safetensors"))]
        for kind in ("json-*.text-ICL-", "base-LLM-text-ICL")
    )
    own = [v for v in own if v.card.specification == "text ICL" and v.card.model != base[0].card.model]
    np.testing.assert_array_equal(results.base_similarity("eye").cosine, base_similarity(own, base).cosine)


def test_words_are_found_for_a_task_that_has_none_and_the_tuned_lens_is_used(
    results: StudyResults,
) -> None:
    words = results.task_words("eye")
    assert set(words.searched) == {"<b>capital", "twin"}
    phases = results.phases("eye")
    assert {p.lens for p in phases.values()} == {"tuned lens"}
    labels = {label.split(" · ")[0] for label in phases if " · " in label}
    assert ("twin" in labels) == bool(words.of("twin")), "without words there is no task phase to follow"
    assert "<b>capital" in labels
    assert next(results.path.glob("cells/*.lens.safetensors"))
    assert TunedLens.load(next(results.path.glob("cells/*.lens.safetensors"))).card.model.endswith("eye")
    assert set(results.boundaries("eye").to_frame().label) == {label for label in phases if " · " not in label}


def test_what_cannot_be_done_is_left_out(world: Path, tmp_path: Path) -> None:
    """One task alone shares inputs with none, and nothing can be aligned with it."""
    some = run(world, tmp_path / "run", tasks=[str(world / "twin.json")], seeds=(0,), base=None)
    for method in (
        some.overriding,
        some.alignment,
        some.base_similarity,
        some.base_comparison,
        some.task_words,
        some.boundaries,
    ):
        with pytest.raises(xmi.RunError, match="no result"):
            method("eye")
    assert some.phases("eye") == {}
    assert set(some.summary("eye").source) >= {"control: random vector", "control: unrelated slot"}
    assert not {"control: another task", "control: mean over tasks"} & set(some.summary("eye").source)


def test_tasks_without_instructions_can_be_studied(world: Path, tmp_path: Path) -> None:
    content = json.loads((world / "capital.json").read_text())
    del content["instruction"]
    (world / "mute.json").write_text(json.dumps(content))
    with pytest.raises(xmi.TaskError, match="instruction"):
        run(world, tmp_path / "a", tasks=[str(world / "mute.json")])
    options = {"tasks": [str(world / "mute.json")], "seeds": (0,), "sources": ("text ICL",), "experiments": ()}
    table = run(world, tmp_path / "b", **options).summary("eye")
    assert set(table.query("method == 'prompt'").source) == {"text ICL", "image ICL"}


def test_a_dry_run_says_what_the_experiments_cost(world: Path) -> None:
    tasks = [str(world / f"{name}.json") for name in ("capital", "twin")]
    plan = {"model": world / "eye", "out": "x", "tasks": tasks, "shots": 2, "prompts": 4, "seeds": (0,), "points": 4}
    counts = []
    for experiments in (("overriding",), ()):
        said = dry_run(**plan, experiments=experiments).splitlines()[-1]
        counts.append(int(said.split(" cells, ")[1].split()[0]))
    # Two pairs, each: vectors of the other task, a packed sweep, a system prompt.
    assert counts[0] - counts[1] == 6
    assert ensemble_sizes(prepare(**plan).plan) == (1, 2, 3)


def test_the_index_lists_results_in_one_order(results: StudyResults) -> None:
    assert set(LISTED) <= set(registry())
    names = list(json.loads((results.path / FINISHED).read_text())["results"]["eye"])
    kinds = ("answers", "words", "base_comparison", "overriding", "similarity", "ensembling", "base_similarity")
    firsts = [next(i for i, name in enumerate(names) if name.startswith(kind)) for kind in kinds]
    assert firsts == sorted(firsts) and firsts[0] == 0


def test_what_a_plan_chooses_is_the_kind_of_an_experiment() -> None:
    """An experiment that is called otherwise than its module would be done in every study, whatever the plan says."""
    assert set(CHOSEN) <= set(registry())
    assert not {*FIRST, *LAST} & set(CHOSEN)
