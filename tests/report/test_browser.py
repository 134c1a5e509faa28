"""The report as a reader meets it: opened, moved and unfolded in Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.command import run_xmi
from tests.night import NIGHT
from tests.report.browser import Open, Opened, unfold
from tests.report.synthetic import HOSTILE, make_run

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

FIGURE = ".js-plotly-plot"
VIEWS = [(1280, "light"), (390, "dark"), *([(1280, "dark"), (390, "light")] if NIGHT else [])]
"""Both widths and both schemes; by night each at each."""
SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="module")
def views(open_report: Open, report_path: Path) -> dict[tuple[int, str], Opened]:
    """The report in every view."""
    found = {(width, scheme): open_report(report_path, width, scheme) for width, scheme in VIEWS}
    for opened in found.values():
        unfold(opened.page)
        opened.page.evaluate("document.querySelector('#prompts details.task').open = true")
    return found


@pytest.fixture(scope="module")
def desk(views: dict[tuple[int, str], Opened]) -> Opened:
    """The report on a wide, light screen."""
    return views[1280, "light"]


def script(name: str) -> str:
    """Returns the JavaScript function of a file in scripts/."""
    return (SCRIPTS / f"{name}.js").read_text(encoding="utf-8")


def figures(page: Page) -> list[Locator]:
    """Returns the figures that are on show, those in closed drill-downs left out."""
    return [f for f in page.locator(FIGURE).all() if f.is_visible()]


def drawn(figure: Locator) -> str:
    """Returns all that a figure's traces draw now."""
    traces: str = figure.evaluate("gd => JSON.stringify(gd._fullData.map(t => [t.visible, t.x, t.y, t.z, t.text]))")
    return traces


def picture(page: Page, figure: Locator) -> bytes:
    """Returns the pixels of a figure's plotting area, without the slider below it."""
    figure.scroll_into_view_if_needed()
    area = figure.locator(".cartesianlayer").bounding_box()
    assert area is not None
    return page.screenshot(clip=area)


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{v[0]}-{v[1]}")
def test_opens_without_complaint_or_request(views: dict[tuple[int, str], Opened], view: tuple[int, str]) -> None:
    assert views[view].complaints == []
    assert views[view].requests == []


def test_shows_figures_in_every_measuring_section(desk: Opened) -> None:
    assert len(figures(desk.page)) >= 5
    for section in ("phases", "geometry", "transfer"):
        assert desk.page.locator(f"#{section} {FIGURE}").count() >= 1, section


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{v[0]}-{v[1]}")
def test_page_does_not_scroll_sideways(views: dict[tuple[int, str], Opened], view: tuple[int, str]) -> None:
    page = views[view].page
    shown, whole = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert whole <= shown


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{v[0]}-{v[1]}")
def test_parts_of_a_figure_stand_apart(views: dict[tuple[int, str], Opened], view: tuple[int, str]) -> None:
    """Title, legend, axis titles, tick labels and slider neither overlap nor leave the figure."""
    found = [f.evaluate(script("overlaps")) for f in figures(views[view].page)]
    assert [f for f in found if f] == []


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: f"{v[0]}-{v[1]}")
def test_text_stands_out_from_its_ground(views: dict[tuple[int, str], Opened], view: tuple[int, str]) -> None:
    """Contrast of at least 4.5 (WCAG AA) for the page's text and the figures' labels."""
    assert views[view].page.evaluate(script("contrast"), 4.5) == []


def test_dark_is_dark_and_light_is_light(views: dict[tuple[int, str], Opened]) -> None:
    grounds = {
        view: opened.page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
        )
        for view, opened in views.items()
    }
    for (_, scheme), ground in grounds.items():
        assert max(ground) < 80 if scheme == "dark" else min(ground) > 200


@pytest.mark.parametrize("view", VIEWS[:2], ids=lambda v: f"{v[0]}-{v[1]}")
def test_every_slider_changes_its_figures(views: dict[tuple[int, str], Opened], view: tuple[int, str]) -> None:
    """A slider drives the figures of all models in its panel, by keyboard too."""
    page = views[view].page
    panels = page.locator(".panel").filter(has=page.locator("input[type=range]")).all()
    assert panels, "no panel has a slider"
    for panel in panels:
        shown = [f for f in panel.locator(FIGURE).all() if f.is_visible()]
        before, pixels = [drawn(f) for f in shown], [picture(page, f) for f in shown]
        said = panel.locator("output").text_content()
        panel.locator("input[type=range]").focus()
        page.keyboard.press("End")
        page.wait_for_timeout(800)  # every figure is drawn again
        assert panel.locator("output").text_content() != said
        for figure, traces, image in zip(shown, before, pixels, strict=True):
            assert drawn(figure) != traces
            assert picture(page, figure) != image


def test_hovering_over_the_phases_tells_more(desk: Opened) -> None:
    figure = desk.page.locator(f"#phases {FIGURE}").first
    figure.scroll_into_view_if_needed()
    x, y = figure.evaluate(script("point"))
    desk.page.mouse.move(x - 3, y)
    desk.page.mouse.move(x, y, steps=3)
    label = figure.locator(".hoverlayer text").first
    label.wait_for(state="attached", timeout=3000)
    assert (label.text_content() or "").strip()


def test_drill_down_shows_prompts_with_their_images(desk: Opened) -> None:
    """Answers are listed when a drill-down is opened, not before."""
    drills = desk.page.locator("#prompts details.drill")
    assert drills.count() >= 1
    assert drills.locator(".answer").count() == 0
    closed = drills.filter(has_text="image ICL: prompt → image query").first
    closed.locator("> summary").click()
    assert closed.get_attribute("open") is not None
    image = closed.locator(".answer img").first
    image.scroll_into_view_if_needed()
    assert image.is_visible()
    assert image.evaluate("async i => { await i.decode(); return i.naturalWidth }") > 0
    assert "A:" in closed.inner_text()
    assert closed.locator(".mark").first.text_content() in ("✓", "✗")


def test_keyboard_opens_a_drill_down(desk: Opened) -> None:
    group = desk.page.locator("#prompts details.task").last
    group.locator("> summary").focus()
    desk.page.keyboard.press("Enter")
    last = group.locator("details.drill").last
    was = last.get_attribute("open")
    last.locator("> summary").focus()
    desk.page.keyboard.press("Enter")
    assert last.get_attribute("open") != was


def test_theme_can_be_chosen(desk: Opened) -> None:
    """The button overrides the system's scheme, and the figures follow the page."""
    ground = "getComputedStyle(document.body).backgroundColor"
    before = desk.page.evaluate(ground)
    ink = desk.page.locator(FIGURE).first.evaluate("gd => gd._fullLayout.font.color")
    button = desk.page.locator("#theme")
    button.click()  # automatic to light
    button.click()  # light to dark
    desk.page.wait_for_timeout(300)
    assert desk.page.evaluate(ground) != before
    assert desk.page.locator(FIGURE).first.evaluate("gd => gd._fullLayout.font.color") != ink
    button.click()  # back to automatic
    assert desk.page.evaluate(ground) == before


def test_nothing_was_asked_for_in_the_end(desk: Opened) -> None:
    """Runs last in this file: what the tests above did asked for nothing and raised nothing either."""
    assert desk.requests == []
    assert desk.complaints == []


def test_hostile_strings_are_text(open_report: Open, tmp_path: Path) -> None:
    """Markup among tokens, labels and versions neither runs nor vanishes nor breaks the page."""
    run = make_run(tmp_path / "run")
    done = run_xmi("report", str(run))
    assert done.returncode == 0, done.stderr
    opened = open_report(run / "report.html")
    page = opened.page
    page.evaluate("document.querySelectorAll('main details').forEach(d => { d.open = true })")
    page.locator("#prompts details.drill .answer").last.wait_for()
    text = page.evaluate("document.body.innerText")
    assert [h for h in HOSTILE if h.strip("\u2028 ") not in text] == []
    labels = page.locator(f"#phases {FIGURE}").first.evaluate(
        "gd => JSON.stringify(gd._fullData.map(t => [t.text, t.hovertext, t.customdata]))"
    )
    assert "<script>" not in labels, "plotly drops tags that it does not know: escape tokens in labels"
    assert opened.complaints == []
    assert opened.requests == []
