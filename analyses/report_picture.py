"""Renders the top of a report as the picture in the README.

Usage: python analyses/report_picture.py runs/demo/report.html docs/images/report.png

Needs playwright and a Chromium; XMI_CHROMIUM names its path where it is not /usr/bin/chromium.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def picture(report: Path, target: Path, *, width: int = 1180, last: str = "phases") -> None:
    """Screenshots a report from its top to the end of a section.

    Args:
        report: The HTML file.
        target: The PNG to write.
        width: Width of the window in pixels.
        last: Id of the last section to show.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        path = os.environ.get("XMI_CHROMIUM", "/usr/bin/chromium")
        browser = play.chromium.launch(executable_path=path, args=list(QUIET))
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length > 2")
        page.wait_for_timeout(1500)
        height = page.evaluate("id => document.getElementById(id).getBoundingClientRect().bottom", last)
        page.screenshot(path=target, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
