"""A real browser for the report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report.browser import FLAGS, Open, Opened, chromium, listen, scroll_through

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium with a fresh profile; skips without one, unless XMI_REQUIRE_BROWSER is set."""
    path = chromium()
    if path is None:
        reason = "no Chromium found; install it, or name its path in XMI_CHROMIUM"
        if os.environ.get("XMI_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def open_report(browser: Browser) -> Iterator[Open]:
    """Opens a report in a context of its own: `open_report(path, width=390, scheme="dark")`."""
    contexts = []

    def open_(path: Path, width: int = 1280, scheme: str = "light") -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900 if width > 600 else 844},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        contexts.append(context)
        opened, address = Opened(context.new_page()), path.resolve().as_uri()
        listen(opened, address)
        opened.page.goto(address, wait_until="load")
        scroll_through(opened.page)
        return opened

    yield open_
    for context in contexts:
        context.close()
