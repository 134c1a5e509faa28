"""The gallery's page shows the figures that its script draws, by the lines that the script runs."""

from __future__ import annotations

from analyses import gallery


def test_the_page_is_the_script_s_and_every_figure_has_a_picture() -> None:
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page()
    names = gallery.ON_A_MODEL | gallery.OF_A_STUDY
    assert {file.stem for file in gallery.PAGE.with_suffix("").glob("*.png")} == set(names)
