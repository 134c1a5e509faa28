"""Renders the top of a page as a picture for the documentation, down to the end of a section.

Usage: python analyses/report_picture.py runs/demo/report.html docs/images/report.png
       python analyses/report_picture.py runs/atlas/atlas.html docs/images/atlas.png accuracies

Needs playwright and a Chromium; XMI_CHROMIUM names its path where it is not /usr/bin/chromium.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@contextmanager
def opened(file: Path, *, width: int, height: int = 900) -> Iterator[Page]:
    """Opens an HTML file in headless Chromium.

    Args:
        file: The HTML file.
        width: Width of the window in pixels.
        height: Its height.

    Yields:
        The page, of light colours.
    """
    with sync_playwright() as play:
        path = os.environ.get("XMI_CHROMIUM", "/usr/bin/chromium")
        browser = play.chromium.launch(executable_path=path, args=list(QUIET))
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.goto(file.resolve().as_uri())
        yield page
        browser.close()


def picture(report: Path, target: Path, *, width: int = 1180, last: str = "finding") -> None:
    """Screenshots a report or an atlas from its top to the end of a section.

    Args:
        report: The HTML file.
        target: The PNG to write.
        width: Width of the window in pixels.
        last: Id of the last section to show.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened(report, width=width) as page:
        page.wait_for_selector("html[data-ready=true]")
        page.wait_for_timeout(1500)
        height = page.evaluate("id => document.getElementById(id).getBoundingClientRect().bottom", last)
        page.screenshot(path=target, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    picture(*map(Path, sys.argv[1:3]), **dict(zip(["last"], sys.argv[3:], strict=False)))
