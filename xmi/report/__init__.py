"""A stored study to one self-contained HTML page; its geometry alone to another."""

from xmi.arguments import check_calls
from xmi.report.page import render
from xmi.report.similarity import similarity_page, similarity_panels

__all__ = ["render", "similarity_page", "similarity_panels"]

check_calls(__name__)
