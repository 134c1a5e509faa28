"""A stored study to one self-contained HTML page; its geometry alone to another; many studies to an atlas."""

from xmi.arguments import check_calls
from xmi.report.atlas import atlas_page
from xmi.report.page import render
from xmi.report.similarity import similarity_page, similarity_panels

__all__ = ["atlas_page", "render", "similarity_page", "similarity_panels"]

check_calls(__name__)
