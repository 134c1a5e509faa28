"""The library's own rules: small files, short functions, imports that run one way."""

import ast
import math
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import xmi

SOURCE = Path(xmi.__file__).parent
FILES = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
DRAWING = ("xmi.measure.result", "xmi.plot")
"""A result draws itself for the reader's convenience; the import happens inside `figure()`."""


def lengths() -> Iterator[tuple[int, str]]:
    """Lines of each function from `def` to its end, without its docstring, and where it is."""
    for name, text in FILES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0]
                told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                words = first.end_lineno - first.lineno + 1 if told else 0
                yield node.end_lineno - node.lineno + 1 - words, f"{name}: {node.name}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_at_most_400_lines(name: str) -> None:
    count = len(FILES[name].splitlines())
    assert count <= 400, f"xmi/{name} has {count} lines: divide it by what its parts are about"


def test_the_facade_stays_small() -> None:
    assert len(FILES["vlm.py"].splitlines()) < 300, "what VLM does stands in the rooms; it only binds their functions"


def test_functions_are_short() -> None:
    found = sorted(lengths())
    at = found[math.ceil(0.95 * len(found)) - 1]
    assert at[0] <= 45, f"one function in twenty has more than {at[0]} lines"
    assert found[-1][0] <= 53, f"{found[-1][1]} has {found[-1][0]} lines: divide it"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("xmi", exclude_type_checking_imports=True, cache_dir=None)
    graph.remove_import(importer=DRAWING[0], imported=DRAWING[1])
    circles = []
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if (back := graph.find_shortest_chain(importer=imported, imported=module)) is not None:
                circles.append(" -> ".join([module, *back]))
    assert not circles, "\n".join(circles)
