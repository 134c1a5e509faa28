"""How the tests open a report: in Chromium, with every request and complaint of the page written down."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from playwright.sync_api import Dialog, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PLACES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Opened:
    """A page, and what happened on it since it was opened.

    Attributes:
        page: The page, loaded and scrolled through once, so that figures drawn on sight are there.
        requests: Address of everything the page asked for other than itself and data in the page.
        complaints: Console errors and warnings, uncaught exceptions, and dialogs.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Open(Protocol):
    """Opens a report in a browser context of its own."""

    def __call__(self, path: Path, width: int = 1280, scheme: str = "light") -> Opened: ...


def chromium() -> str | None:
    """Returns the browser's path: XMI_CHROMIUM, else Debian's, else the first on the PATH."""
    if named := os.environ.get("XMI_CHROMIUM"):
        return named
    debian = Path("/usr/bin/chromium")
    return str(debian) if debian.exists() else next(filter(None, map(shutil.which, PLACES)), None)


def listen(opened: Opened, address: str) -> None:
    """Writes down what the page asks for and complains about."""

    def on_request(url: str) -> None:
        if url.split("#")[0] != address and not url.startswith(("data:", "blob:")):
            opened.requests.append(url)

    def on_dialog(dialog: Dialog) -> None:
        opened.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page = opened.page
    page.on("dialog", on_dialog)
    page.on("request", lambda request: on_request(request.url))
    page.on("websocket", lambda socket: on_request(socket.url))
    page.on("pageerror", lambda error: opened.complaints.append(f"uncaught: {error}"))
    page.on(
        "console",
        lambda message: (
            opened.complaints.append(f"{message.type}: {message.text}")
            if message.type in ("error", "warning")
            else None
        ),
    )


def scroll_through(page: Page) -> None:
    """Shows every part of the page once, and returns to the top when the figures stand."""
    height, step = page.evaluate("[document.documentElement.scrollHeight, window.innerHeight]")
    for top in range(0, height, step):
        page.evaluate("top => window.scrollTo(0, top)", top)
        page.wait_for_timeout(60)
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(300)


def unfold(page: Page) -> None:
    """Opens every panel and fold but the lists of prompts, and waits until their figures stand."""
    page.wait_for_selector("html[data-ready=true]")
    page.evaluate("document.querySelectorAll('main details:not(.drill, .task)').forEach(d => { d.open = true })")
    settle(page)


def settle(page: Page) -> None:
    """Waits until every figure on show is drawn and has its size."""
    page.wait_for_selector(".panel[open] .pair:not([hidden]) .plot:not([data-drawn=done])", state="detached")
