"""The atlas: many stored studies on one page, models side by side."""

from __future__ import annotations

from xmi.report.atlas.page import atlas_page

__all__ = ["atlas_page"]
