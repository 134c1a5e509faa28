"""Every claim on every family of the zoo."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from tests.zoo.claims import CLAIMS
from tests.zoo.families import FAMILIES
from tests.zoo.family import Family, build
from tests.zoo.matrix import IMAGES, SNIPPET, state_of, untried
from tests.zoo.oracle import family_vlm, prompts_for
from xmi.prompt import Prompts
from xmi.vlm import VLM

pytestmark = pytest.mark.filterwarnings("ignore:.*patched runs cannot share a forward:UserWarning")
"""Which families those are is part of what is claimed (`Family.unpacked`)."""

ROOT = Path(__file__).resolve().parents[2]
SUPPORTED = [f for f in FAMILIES if not f.refused]
REFUSED = [f for f in FAMILIES if f.refused]


@pytest.fixture(
    scope="module",
    params=SUPPORTED,
    ids=lambda f: f.model_type,
)
def case(request: pytest.FixtureRequest) -> tuple[Family, VLM, Prompts]:
    family = request.param
    return family, family_vlm(family), prompts_for(family.images)


@pytest.mark.parametrize("claim", list(CLAIMS))
def test_claim(case: tuple[Family, VLM, Prompts], claim: str) -> None:
    family, vlm, prompts = case
    if claim in family.partial:
        # A claim that does not hold must fail loudly, in xmi's own words; where it starts to hold, say so.
        with pytest.raises((xmi.XmiError, AssertionError)):
            CLAIMS[claim](vlm, prompts)
    else:
        CLAIMS[claim](vlm, prompts)
    if claim == "sweep":
        (way,) = vlm.engine.ways.values()
        assert (way == "rows") == bool(family.unpacked)


def test_the_same_lines_run_on_every_family(case: tuple[Family, VLM, Prompts]) -> None:
    """The snippet that the docs show, unchanged."""
    family, vlm, prompts = case
    text, images = "Q:Greece\nA:", []
    if family.images != "none":
        text, images = f"<image>{text}", list(prompts[0].images)
    tool = vlm.encoder.processor or vlm.encoder.tokenizer
    given: dict[str, Any] = {"MODEL": vlm.model, "PROCESSOR": tool, "TEXT": text, "IMAGES": images}
    made = runpy.run_path(str(SNIPPET), init_globals=given)
    torch.testing.assert_close(made["traced"][:, -1], made["stream"][made["middle"], :, 0], atol=2e-5, rtol=1e-5)
    assert not torch.equal(made["zeroed"][:, -1], made["logits"][:, -1])


def test_half_precision_misleads_nobody(case: tuple[Family, VLM, Prompts]) -> None:
    """The hook points found are those that float32 has."""
    family, vlm, _ = case
    model, tool = build(family.make)
    found, expected = xmi.load(model.bfloat16(), processor=tool).report.anatomy, vlm.report.anatomy
    assert found.points == expected.points
    assert found.missing == expected.missing


def test_the_docs_say_what_the_tests_show() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        row = next(line for line in page.splitlines() if line.startswith(f"| {family.name} |"))
        assert f"| `{family.model_type}` | {IMAGES[family.images]} | {state_of(family)} |" in row, row
        for claim in family.partial:
            assert f"**{claim}** does not hold" in row
    assert ", ".join(f"`{name}`" for name in untried()) in page
    assert SNIPPET.read_text(encoding="utf-8") in page
    assert sum(f.images != "none" and not f.refused for f in FAMILIES) >= 25
    assert sum(f.images == "none" and not f.refused for f in FAMILIES) >= 8


@pytest.mark.parametrize("family", REFUSED, ids=lambda f: f.model_type)
def test_refused(family: Family) -> None:
    with pytest.raises(xmi.XmiError, match=family.refused):
        vlm = family_vlm(family)
        vlm.encode(prompts_for(family.images))
