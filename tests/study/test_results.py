"""What a stored study says of itself: headline, plan, vectors, accuracies, chosen layers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import xmi
from tests.report.synthetic import make_run
from xmi.study import Plan
from xmi.study.headline import headline
from xmi.study.summary import on_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("results") / "run", items=4, layers=2, images=False, geometry=False)


@pytest.fixture
def results(folder: Path) -> xmi.StudyResults:
    return xmi.StudyResults(folder)


def test_the_headline_has_the_numbers_of_the_summary(results: xmi.StudyResults) -> None:
    assert results.headline.replace("\u00a0", " ") == (
        "In organism, one vector read from text examples and patched into image queries makes the model do the task: "
        "96 % [80, 99] right (n = 24), against 54 % with the examples as a prompt, 0 % with a random vector, 0 % "
        "without context and 4 % in control."
    )
    table = results.summary("organism")
    assert "image examples and patched into text" in headline({"m": table[table["target"] == "text"]})
    one = table[(table["source"] == "instruction") & (table["method"] == "patch")]
    assert "vector read from an instruction and patched into text queries" in headline({"m": one})
    assert headline({"m": table[table["method"] != "patch"]}) == "This study of m holds no patches."
    twice = headline({"m": table, "other": table})
    assert twice.replace("\u00a0", " ").endswith("without context and 96 % in other.")


def test_validation_items_are_those_that_layers_were_chosen_on(results: xmi.StudyResults) -> None:
    found = results.accuracy(split="validation", target="image")
    assert set(found["method"]) == {"patch"}
    for row in found.to_dict("records"):
        assert row["layer"] == results.chosen_layer(row["source"], "image", model=row["model"])
        sweep = results.transfer(row["model"], "image", "validation")
        assert row["accuracy"] == sweep.accuracy(row["source"], int(row["layer"])).mean
    sweep = results.transfer("organism", "image", "validation")
    asked = {"method": "patch", "source": "text ICL", "target": "image", "task": "food-color", "layer": 1}
    one = on_split(pd.DataFrame([asked]), {"image": sweep}, "paper").iloc[0]
    assert one["n"] == len(set(sweep.of_task("food-color").units)) < len(set(sweep.units))
    with pytest.raises(xmi.ArgumentError, match="split"):
        results.accuracy(split="train")


def test_accuracies_are_the_rows_that_were_asked_for(results: xmi.StudyResults) -> None:
    whole = results.accuracy()
    assert list(dict.fromkeys(whole["model"])) == list(results.models)
    assert len(whole) == sum(len(results.summary(model)) for model in results.models)
    one = results.accuracy(model="organism", method="patch", source="text ICL", target="image")
    assert one["accuracy"].tolist() == [pytest.approx(23 / 24)]
    alone = results.accuracy(model="organism", method="prompt", target="text", task="food-color")
    assert set(alone["task"]) == {"food-color"}
    for column, wrong in {"model": "m", "method": "x", "source": "x", "task": "x"}.items():
        with pytest.raises(xmi.NotMeasuredError, match=f"no {column} '{wrong}' there; it has "):
            results.accuracy(**{column: wrong})


def test_the_chosen_layer_is_that_of_the_summary(results: xmi.StudyResults) -> None:
    table = results.summary("organism")
    for row in table[table["method"] == "patch"].to_dict("records"):
        assert results.chosen_layer(row["source"], row["target"]) == row["layer"]
    with pytest.raises(xmi.NotMeasuredError, match="no source 'instructions' there"):
        results.chosen_layer("instructions")


def test_the_plan_is_the_one_that_was_asked(results: xmi.StudyResults) -> None:
    plan = Plan(model="organism", tasks=["country-capital"], layers=[1, 2])
    results.study["plan"] = plan.model_dump(mode="json")
    assert results.plan == plan
    results.study["plan"]["layers"] = "none"
    with pytest.raises(xmi.RunError, match="none of this version of xmi: layers"):
        _ = results.plan


def test_a_notebook_shows_the_headline_the_patches_and_their_figure(results: xmi.StudyResults) -> None:
    html = results._repr_html_()
    assert results.headline in html.replace("&#x27;", "'")
    assert "control: random vector" in html
    assert "plotly-graph-div" in html
