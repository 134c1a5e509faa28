"""One loopback server for all tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.loopback import Loopback


@pytest.fixture(scope="session")
def server() -> Iterator[Loopback]:
    """The embedded models behind an API key, as `xmi/organism` and `xmi/organism-llm`."""
    with Loopback() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").faults()
