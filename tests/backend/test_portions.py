"""What goes to a host at once: about a megabyte, whole prompts and whole calls, and never much more in all."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmi.backend import portions
from xmi.backend.portions import Load, cut_calls, cut_prompts

BYTES = st.integers(1, 60)
LOADS = st.lists(
    st.builds(
        Load,
        st.dictionaries(st.sampled_from("abcdef"), st.just(30), max_size=3),
        st.dictionaries(st.sampled_from("uvw"), st.just(20), max_size=2),
    ),
    max_size=12,
)


@pytest.fixture(scope="module", autouse=True)
def room() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "ROOM", 100)
        yield


def total(loads: list[Load]) -> tuple[int, int]:
    """Bytes of pictures and of the rest, each thing once."""
    pictures = {name: size for load in loads for name, size in load.pictures.items()}
    others = {name: size for load in loads for name, size in load.others.items()}
    return sum(pictures.values()), sum(others.values())


@given(LOADS)
def test_a_request_is_as_large_as_fits(loads: list[Load]) -> None:
    sizes = cut_calls(loads)
    assert sum(sizes) == len(loads) and all(sizes)
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        pictures, others = total(loads[end - size : end])
        assert size == 1 or pictures + others <= 100 or pictures <= others
        if end < len(loads):
            more = total(loads[end - size : end + 1])
            assert sum(more) > 100 and more[0] > more[1], "another call would have fitted"


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=12), BYTES)
def test_a_batch_is_as_large_as_fits(images: list[list[str]], each: int) -> None:
    sizes = cut_prompts(images, each)
    assert sum(sizes) == len(images) and all(sizes)
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        some = images[end - size : end]
        assert size == 1 or len({name for shown in some for name in shown}) * each <= 100
        assert end == len(images) or len({n for shown in images[end - size : end + 1] for n in shown}) * each > 100
    assert cut_prompts([[]] * 5, 0) == [5], "text is not cut"
