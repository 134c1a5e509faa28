"""A stored study to one self-contained HTML page."""

from xmi.report.page import render

__all__ = ["render"]
