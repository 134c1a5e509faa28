"""One look per meaning: the same in every figure, distinguished by any eye, on a light page and on a dark one."""

from __future__ import annotations

import re
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xmi.plot
from tests.plot.gallery import CONTROLS, FIGURES, SOURCES, drawn
from xmi.plot import looks
from xmi.plot.looks import GREY, PALETTE, Look

CSS = Path(xmi.plot.__file__).parents[1] / "report" / "assets" / "report.css"
TABLES = [table for table in vars(looks).values() if isinstance(table, dict) and table and all(
    isinstance(look, Look) for look in table.values()
)]  # fmt: skip
# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
name = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, two: str) -> float:
    """WCAG's contrast ratio."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, two))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = matrix @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def grounds() -> list[str]:
    """What figures lie on: the page's surface in both schemes."""
    return sorted(set(re.findall(r"--surface: (#[0-9a-f]{6})", CSS.read_text("utf-8"))))


@pytest.mark.fault("D12")
def test_every_colour_stands_out_from_the_page_in_both_schemes() -> None:
    assert len(grounds()) == 2
    worn = {look.colour for table in TABLES for look in table.values()} | {*PALETTE, GREY}
    assert len(worn) >= 8
    dim = {(c, g): round(contrast(c, g), 2) for c in worn for g in grounds() if contrast(c, g) < 3}
    assert not dim


@pytest.mark.fault("D12")
@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_with_a_name_is_drawn_in_a_colour_of_its_own(kind: str) -> None:
    """Every line and marker of a legend wears a colour of the table, at full strength."""
    known = {*PALETTE, GREY}
    for trace in drawn(kind).data:
        if trace.type != "scatter" or trace.fill == "toself" or trace.name in (None, "top tokens"):
            continue
        worn = {"lines": [trace.line.color], "markers": [trace.marker.color]}
        for part in trace.mode.split("+"):
            assert set(worn[part]) - {None} <= known, (trace.name, part)
        assert trace.opacity is None
        assert trace.marker.opacity in (None, 1)


@pytest.mark.fault("D5")
@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_with_every_common_vision(vision: str) -> None:
    seen = {c: lab(np.array(VISIONS[vision]) @ linear(c)) for c in (*PALETTE, GREY)}
    assert min(float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(seen, 2)) > 12


@pytest.mark.fault("D5")
@settings(max_examples=30)
@given(st.lists(name, max_size=8, unique=True))
def test_controls_are_told_apart_without_colour(more: list[str]) -> None:
    """By symbol, and by dash as long as there are dashes; controls of one's own too."""
    known = [f"control: {c}" for c in CONTROLS]
    found = looks.sources([*known, *(f"control: {m}" for m in more)])
    worn = [(look.symbol, look.dash) for look in found.values()]
    assert len(set(worn)) == len(worn)
    assert len({found[c].symbol for c in known}) == len({found[c].dash for c in known}) == len(CONTROLS)
    assert {look.colour for look in found.values()} == {GREY}


@pytest.mark.fault("D4")
@given(st.lists(st.sampled_from(SOURCES), min_size=1, unique=True), st.lists(name, max_size=4, unique=True))
def test_a_look_depends_on_no_position(given_: list[str], more: list[str]) -> None:
    """What else is drawn, and in which order, changes nothing."""
    alone = {source: looks.sources([source])[source] for source in given_}
    for order in ([*given_, *more], [*more, *reversed(given_)]):
        together = looks.sources(order)
        assert {s: together[s] for s in given_} == alone
        assert {s: together[s] for s in more} == {s: looks.sources([*given_, *more])[s] for s in more}
        assert len({(k.colour, k.symbol, k.dash) for k in together.values()}) == len(together)
    for order in permutations(more[:3]):
        assert looks.named(order) == looks.named(more[:3])
        assert looks.contrasts(order) == looks.contrasts(more[:3])


@pytest.mark.fault("D4")
def test_figures_take_their_colours_from_the_table() -> None:
    """No figure names a colour, a symbol or a dash: what stands for what is written in one file."""
    folder = Path(xmi.plot.__file__).parent
    words = r"#[0-9A-Fa-f]{6}|\b(?:BLUE|ORANGE|GREEN|VERMILION|PURPLE|SKY|OLIVE|SYMBOLS|DASHES|colour\()\b|\"dash\":"
    for path in sorted(folder.glob("*.py")):
        if path.stem in ("looks", "similarity", "theme"):  # a colour scale; the frame
            continue
        assert not re.findall(words, path.read_text("utf-8")), path.name


@pytest.mark.fault("D4")
def test_models_that_lack_a_contrast_or_a_source_keep_the_looks_of_the_others() -> None:
    table = FIGURES["comparisons"]
    from tests.plot.gallery import table as contrasts

    whole = {t.name: (t.marker.color, t.legendrank) for t in table().data}
    for gone in whole:
        part = xmi.plot.comparisons(contrasts().loc[lambda rows, gone=gone: rows["contrast"] != gone])
        assert {t.name: (t.marker.color, t.legendrank) for t in part.data} == {
            k: v for k, v in whole.items() if k != gone
        }
    assert len(whole) >= 3


@pytest.mark.parametrize("kind", FIGURES)
def test_legends_keep_one_order_and_know_what_they_stand_for(kind: str) -> None:
    """Every entry has a group, by which clicks act on paired figures, and a rank, by which legends are ordered."""
    for trace in drawn(kind).data:
        if trace.showlegend is not False and trace.name and trace.type == "scatter" and trace.name != "accuracy":
            assert trace.legendgroup, trace.name
            assert trace.legendrank is not None, trace.name
