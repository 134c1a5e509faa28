"""What a stored study says of itself: headline, plan, vectors, accuracies, chosen layers."""

from __future__ import annotations

from pathlib import Path

import pytest

import xmi
from tests.report.synthetic import make_run
from xmi.study import Plan
from xmi.study.headline import headline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("results") / "run", items=4, layers=2, images=False, geometry=False)


@pytest.fixture
def results(folder: Path) -> xmi.StudyResults:
    return xmi.StudyResults(folder)


def test_the_headline_has_the_numbers_of_the_summary_with_their_intervals(results: xmi.StudyResults) -> None:
    said = results.headline
    assert said.startswith(
        "organism: text ICL vectors patched into image queries at layer 1 give 96 % [80, 99] right (n = 24)"
    )
    assert "text ICL as a prompt 54 % [35, 72]" in said
    assert "control: random vector 0 % [0, 14]" in said
    assert "no context 0 % [0, 14]" in said
    table = results.summary("organism")
    assert "image ICL vectors patched into text" in headline("m", table[table["target"] == "text"])
    one = table[(table["source"] == "instruction") & (table["method"] == "patch")]
    assert headline("m", one).startswith("m: instruction vectors patched into text queries")
    assert headline("m", table[table["method"] != "patch"]) == "This study of m holds no patches."


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
