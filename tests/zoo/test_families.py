"""Every claim on every family of the zoo."""

from __future__ import annotations

import pytest

import xmi
from tests.zoo.claims import CLAIMS
from tests.zoo.families import FAMILIES
from tests.zoo.family import Family
from tests.zoo.oracle import family_vlm, prompts_for
from xmi.prompt import Prompts
from xmi.vlm import VLM

SUPPORTED = [f for f in FAMILIES if not f.refused]
REFUSED = [f for f in FAMILIES if f.refused]


@pytest.fixture(scope="module", params=SUPPORTED, ids=lambda f: f.model_type)
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


@pytest.mark.parametrize("family", REFUSED, ids=lambda f: f.model_type)
def test_refused(family: Family) -> None:
    with pytest.raises(xmi.XmiError, match=family.refused):
        vlm = family_vlm(family)
        vlm.encode(prompts_for(family.images))
