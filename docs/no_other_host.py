"""For mkdocs: pages ask no other host. What plotly's notebooks bring along for formulas is dropped; the rest fails."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

_MATHJAX = re.compile(r'<script src="https://cdnjs\.cloudflare\.com/[^"]*mathjax[^"]*"></script>', re.IGNORECASE)
_ASKED = re.compile(r'<(?:script|img|iframe|link rel="stylesheet")[^>]*?\s(?:src|href)="https?://[^"]+"')


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Returns a page that loads nothing from elsewhere.

    Raises:
        PluginError: It still does.
    """
    html = _MATHJAX.sub("", output)
    if found := _ASKED.search(html):
        raise PluginError(f"{page.file.src_uri} would ask another host: {found[0][:200]}")
    return html
