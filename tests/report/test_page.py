"""The page itself: it opens short, its figures align, its tables are whole and lead to their prompts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pandas as pd
import pytest

from tests.plot.gallery import menu
from tests.report.browser import Open, Opened, settle, unfold
from tests.report.synthetic import CONTROL, GOOD, TASKS, make_run
from xmi.report import render
from xmi.study.results import StudyResults

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

MOST = 9000  # px
SCRIPTS = Path(__file__).parent / "scripts"
PLOTS = ".panel[open] .pair:not([hidden]) .js-plotly-plot"
LONG = "a caption so long that it has to be broken into several lines beside one that is not, " * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    made = make_run(folder, {"organism": GOOD, "control": CONTROL}, tasks=TASKS[:2], items=6, layers=3)
    render(StudyResults(made), made / "report.html")
    return made


@pytest.fixture(scope="module")
def wide(open_report: Open, run: Path) -> Opened:
    return open_report(run / "report.html", 1280, "light")


@pytest.fixture
def page(wide: Opened, run: Path) -> Page:
    """The page as it opens."""
    wide.page.set_viewport_size({"width": 1280, "height": 900})
    wide.page.goto("about:blank")
    wide.page.goto((run / "report.html").resolve().as_uri())
    wide.page.wait_for_selector("html[data-ready=true]")
    return wide.page


def script(name: str) -> str:
    return (SCRIPTS / f"{name}.js").read_text(encoding="utf-8")


def where(figure: Locator) -> dict[str, Any]:
    found: dict[str, Any] = figure.evaluate(script("axes"))
    return found


def same_place(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Axes keep type and ticks, the first point its place, and every mark stands where its number says."""
    assert after["types"] == before["types"]
    assert after["ticks"] == before["ticks"]
    assert after["first"] == before["first"]
    assert after["points"] == before["points"]
    for x0, drawn in after["lines"]:
        assert drawn == pytest.approx(dict(map(tuple, after["marks"]))[x0], abs=1.5)


@pytest.mark.fault("A13")
def test_no_control_moves_an_axis_or_a_mark(page: Page) -> None:
    """Every menu, slider and choice of view of every panel."""
    unfold(page)
    moved = marks = 0
    for panel in page.locator(".panel").all():
        for view in panel.locator(".segmented label").all() or [None]:
            if view is not None:
                view.click()
                settle(page)
            figures = panel.locator(".pair:not([hidden]) .js-plotly-plot").all()
            before = [where(f) for f in figures]
            for select in panel.locator("select").all():
                for value in ["1", "2", "0"]:
                    select.select_option(value)
                    page.wait_for_timeout(30)
                    for figure, was in zip(figures, before, strict=True):
                        now = where(figure)
                        same_place(was, now)
                        marks += len(now["lines"])
                        assert now["ticks"][0][0] == "embed"
                        moved += 1
                select.select_option("0")
            for slider in panel.locator("input[type=range]").all():
                slider.focus()
                for key in ("End", "Home"):
                    page.keyboard.press(key)
                    for figure, was in zip(figures, before, strict=True):
                        assert where(figure)["types"] == was["types"]
                        moved += 1
    assert moved >= 12
    assert marks >= 6, "boundaries are drawn"


@pytest.mark.fault("A13")
def test_a_notebooks_menu_moves_no_axis_and_no_mark(page: Page) -> None:
    """The figure by itself, with plotly's own menu."""
    figure = json.loads(menu().to_json())
    page.evaluate("document.body.prepend(Object.assign(document.createElement('div'), {id: 'own'}))")
    page.evaluate("f => Plotly.newPlot('own', f.data, {...f.layout, width: 700})", figure)
    own = page.locator("#own")
    before = where(own)
    assert before["ticks"][0][0] == "embed"
    for button in [*figure["layout"]["updatemenus"][0]["buttons"], figure["layout"]["updatemenus"][0]["buttons"][0]]:
        page.evaluate("args => Plotly.update('own', ...args)", button["args"])
        now = where(own)
        same_place(before, now)
        assert now["lines"]


@pytest.mark.fault("D6")
def test_legends_of_paired_figures_act_together(page: Page) -> None:
    """A click on one hides the entry in both, in the other view too; two clicks show it alone."""

    def hidden() -> list[list[str]]:
        found: list[list[str]] = page.evaluate(
            """plots => [...document.querySelectorAll(plots)].map((gd) => [...new Set([...gd._fullData
               .filter((t) => t.visible === "legendonly").map((t) => t.legendgroup),
               ...(gd.layout.shapes ?? []).filter((s) => s.visible === "legendonly")
               .map((s) => s.legendgroup)])].sort())""",
            f"#panel-phases {PLOTS.removeprefix('.panel[open] ')}",
        )
        return found

    def becomes(*wanted: list[str]) -> None:
        for _ in range(100):
            if hidden() == list(wanted):
                return
            page.wait_for_timeout(100)
        assert hidden() == list(wanted)

    def click_twice(entry: Locator) -> None:
        """Both clicks at once, however busy the machine is."""
        entry.evaluate(
            """node => ["mousedown", "mouseup", "mousedown", "mouseup"].forEach((name) =>
               node.dispatchEvent(new MouseEvent(name, { bubbles: true })))"""
        )

    panel = page.locator("#panel-phases")
    panel.locator("> summary").click()
    settle(page)
    toggles = panel.locator(".pair:not([hidden]) .js-plotly-plot").first.locator(".legendtoggle")
    toggles.nth(1).click()
    becomes(["task"], ["task"])
    for view in (1, 0):
        panel.locator(".segmented label").nth(view).click()
        settle(page)
        becomes(["task"], ["task"])
        panel.locator("select").select_option("1" if view else "0")
        becomes(["task"], ["task"])
    toggles.nth(toggles.count() - 1).click()  # the marks of changes, which are shapes; the control has none
    becomes(["change", "task"], ["task"])
    every = ["all three together", "answer", "task"]
    click_twice(toggles.nth(0))
    becomes(sorted([*every, "change"]), every)
    click_twice(toggles.nth(0))
    becomes([], [])


@pytest.mark.fault("D7")
def test_axes_of_paired_figures_align(page: Page) -> None:
    """However long one caption is; and they have one scale."""
    unfold(page)
    page.evaluate(f"document.querySelectorAll('.pair > figure:first-child .subtitle').forEach(s => s.append({LONG!r}))")
    page.wait_for_timeout(100)
    pairs = page.evaluate(
        """() => [...document.querySelectorAll(".panel[open] .pair:not([hidden])")].map((pair) =>
          [...pair.querySelectorAll(".js-plotly-plot")].map((gd) => {
            const top = gd.getBoundingClientRect().top, layout = gd._fullLayout;
            return Object.keys(layout).filter((n) => /^yaxis\\d*$/.test(n)).map((n) =>
              [Math.round(top + layout[n]._offset), Math.round(layout[n]._length),
               gd.layout.sliders || gd.data[0]?.type === "heatmap" || /PC|SNE/.test(layout[n].title.text ?? "") ? 0
               : layout[n].range.map((v) => Math.round(100 * v))]);
          }))"""
    )
    assert len(pairs) >= 6
    for left, right in (pair for pair in pairs if len(pair) > 1):
        for (top, length, reach), (top_, length_, reach_) in zip(left, right, strict=True):
            assert top == pytest.approx(top_, abs=1)
            assert length == pytest.approx(length_, abs=5)
            assert reach == reach_


def test_relative_depth_puts_models_on_one_axis_and_goes_back(page: Page) -> None:
    panel = page.locator("#panel-transfer-text")
    panel.locator("> summary").click()
    settle(page)
    axes = """() => [...document.querySelectorAll("#panel-transfer-text .plot")].map((gd) =>
      [gd.layout.meta.layers, gd._fullLayout.xaxis.range, gd._fullLayout.xaxis.ticktext ?? null])"""
    before = page.evaluate(axes)
    panel.locator(".depth").check()
    page.wait_for_timeout(300)
    for layers, (low, high), ticks in page.evaluate(axes):
        assert [(low + 1) / layers, (high + 1) / layers] == pytest.approx([-0.04, 1.04])
        assert ticks == ["0", "0.25", "0.5", "0.75", "1"]
    panel.locator(".depth").uncheck()
    page.wait_for_timeout(300)
    assert page.evaluate(axes) == before


def test_figures_and_tables_can_be_saved(page: Page, run: Path, tmp_path: Path) -> None:
    """The numbers saved are those of the run's tables; pictures are what they say they are."""

    def saved(name: str) -> bytes:
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).first.click()
        download.value.save_as(tmp_path / "saved")
        return (tmp_path / "saved").read_bytes()

    title = "From text examples to image queries: organism and control"
    assert saved(f"PNG of {title}").startswith(b"\x89PNG")
    svg = saved(f"SVG of {title}")
    assert b"<svg" in svg
    assert b"as a prompt" in svg
    points = pd.read_csv(io.BytesIO(saved(f"CSV of {title}")))
    table = (
        StudyResults(run).summary("control").query("method == 'patch' and source == 'text ICL' and target == 'image'")
    )
    (point,) = points[(points.series == "control") & points.y.str.contains("patched vector")].itertuples()
    assert [point.x, point.low, point.high] == pytest.approx(table[["accuracy", "low", "high"]].to_numpy()[0], abs=1e-3)
    page.locator("#accuracies > summary").click()
    whole = pd.read_csv(io.BytesIO(saved("CSV of Accuracy by specification and modality")))
    for model in ("organism", "control"):
        pd.testing.assert_frame_equal(
            whole[whole.model == model].drop(columns="model").reset_index(drop=True), StudyResults(run).summary(model)
        )


def test_wrong_answers_can_be_listed_alone_and_the_address_says_so(page: Page, run: Path) -> None:
    records = [r for r in StudyResults(run).records() if r["method"] == "prompt" and r["model"] == "control"]
    page.goto("about:blank")
    page.goto((run / "report.html").resolve().as_uri() + "#prompts?model=control&method=prompt&answer=wrong")
    page.wait_for_selector("html[data-ready=true]")
    shown = page.locator("details.drill:not([hidden])")
    wrong = {(r["task"], r["source"], r["target"]) for r in records if not r["paper"]}
    assert shown.count() == len(wrong) < len({(r["task"], r["source"], r["target"]) for r in records})
    shown.first.locator("> summary").click()
    page.locator("#lists .answer").first.wait_for()
    assert page.locator("#lists .answer.is-hit").count() == 0
    page.locator("#lists label", has_text="answer").locator("select").select_option("right")
    page.locator("#lists .answer.is-hit").first.wait_for()
    assert page.locator("#lists details.drill:not([hidden]) .answer.is-miss").count() == 0
    assert page.evaluate("location.hash").endswith("answer=right")


@pytest.mark.fault("D10")
def test_tables_by_task_are_whole_on_a_screen_and_on_paper(open_report: Open, tmp_path: Path) -> None:
    """Also with so many tasks that one table cannot hold them."""
    names = tuple(f"task-of-some-kind-{i}" for i in range(11))
    made = make_run(
        tmp_path, {"a model with quite a name": GOOD}, tasks=names, items=1, layers=1, images=False, geometry=False
    )
    page = open_report(render(StudyResults(made), tmp_path / "report.html")).page
    page.evaluate("document.querySelectorAll('#finding details').forEach(d => { d.open = true })")
    assert page.locator("#finding .plain").count() == 2
    assert page.evaluate(script("cut")) == []
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1047, "height": 700})  # A4, landscape, 10 mm of margin
    assert page.evaluate(script("cut")) == []


@pytest.mark.fault("D11")
def test_no_number_is_cut_on_a_telephone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.wait_for_selector("html[data-ready=true]")
    page.evaluate("document.querySelectorAll('main details:not(.drill, .panel)').forEach(d => { d.open = true })")
    assert page.locator("#finding .stacks").count() >= 3
    assert page.evaluate(script("cut")) == []
    shown, whole = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert whole <= shown
    label = page.evaluate("getComputedStyle(document.querySelector('.overview td'), '::before').content")
    assert "query" in label, "a number that lost its column's head says what it is"


@pytest.mark.fault("D13")
def test_numbers_lead_to_their_prompts(page: Page, run: Path) -> None:
    """The address names what is listed; a number by task leads to one list, which is open."""
    records = list(StudyResults(run).records())
    page.locator("#accuracies > summary").click()
    link = page.locator(".overview a.to-prompts", has_text=".").nth(2)
    wanted = {k: v[0] for k, v in parse_qs(str(link.get_attribute("href")).split("?")[1]).items()}
    link.click()
    drills = page.locator("#lists details.drill")
    listed = [d for d in drills.all() if d.is_visible()]
    assert len(listed) == len({r["task"] for r in records if all(r[k] == v for k, v in wanted.items())}) == 2
    assert page.evaluate("location.hash").startswith("#prompts?model=")
    page.locator("#by-task > summary").click()
    cell = page.locator("#finding tr[data-lists] td.one a").first
    said = float(cell.text_content() or "nan")
    cell.click()
    page.locator("#lists .answer").first.wait_for()
    (only,) = [d for d in drills.all() if d.is_visible()]
    marks = only.locator(".answer")
    hits = only.locator(".answer.is-hit")
    assert hits.count() / marks.count() == pytest.approx(said, abs=0.006)
    assert "1 of" in page.locator("#lists .found").inner_text()
    page.locator("#lists .clear").click()
    assert page.evaluate("location.hash") == "#prompts"
    assert drills.evaluate_all("all => all.filter(d => d.hidden).length") == 0
    page.locator("#lists select").first.select_option(index=1)
    assert "model=" in page.evaluate("location.hash")
    page.reload()
    page.wait_for_selector("html[data-ready=true]")
    assert page.locator("#lists").get_attribute("open") is not None
    assert page.locator("#lists select").first.input_value() != ""


@pytest.mark.fault("D14")
def test_the_page_opens_short_and_unfolds(page: Page, run: Path) -> None:
    assert page.evaluate("document.documentElement.scrollHeight") <= MOST
    assert not page.locator("#finding .overview").is_visible()
    assert page.locator(PLOTS).count() == page.locator(".js-plotly-plot").count() == 1, "drawn where they are seen"
    page.locator(".chip", has_text="Controls").first.click()
    assert page.locator("#controls").is_visible(), "a verdict opens what it leads to"
    folded = page.locator("#panel-silhouette")
    folded.locator("> summary").focus()
    page.keyboard.press("Enter")
    settle(page)
    assert folded.locator(".js-plotly-plot").count() == 2
    address = (run / "report.html").resolve().as_uri()
    page.goto("about:blank")
    page.goto(f"{address}#panel-transfer-text")
    page.wait_for_selector("html[data-ready=true]")
    settle(page)
    assert page.locator("#panel-transfer-text .js-plotly-plot").first.is_visible()
    page.evaluate("location.hash = '#panel-projection'")
    page.locator("#panel-projection .js-plotly-plot").first.wait_for()


@pytest.mark.fault("D14")
def test_on_paper_everything_is_unfolded(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    settle(page)
    closed = page.locator("main details:not([open])")
    assert set(closed.evaluate_all("all => all.map(d => d.className.split(' ').pop())")) <= {"whole", "task", "drill"}
    drawn = page.locator(".panel .pair:not([hidden]) .plot")
    assert drawn.count() == page.locator(PLOTS).count() >= 12
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".panel[open]").count() == 1


def test_nothing_was_asked_for_or_complained_of(wide: Opened) -> None:
    """Runs last in this file."""
    assert wide.requests == []
    assert wide.complaints == []
