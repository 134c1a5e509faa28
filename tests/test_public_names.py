"""What is exported is a promise: `tests/public_names.txt` lists it, so that a change of it is seen in a diff.

python -m tests.test_public_names      writes the list anew
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import xmi

LIST = Path(__file__).with_name("public_names.txt")
ROOMS = sorted(path.parent.name for path in Path(xmi.__file__).parent.glob("*/__init__.py"))


def exported() -> str:
    """One name a line, with the room that exports it."""
    modules = ["xmi", *(f"xmi.{room}" for room in ROOMS)]
    lines = [f"{module}.{name}" for module in modules for name in sorted(getattr(import_module(module), "__all__", ()))]
    return "\n".join(lines) + "\n"


def test_the_list_of_public_names_is_todays() -> None:
    """Names leave only with a line in CHANGELOG.md."""
    assert exported() == LIST.read_text(encoding="utf-8"), "if it is meant: python -m tests.test_public_names"


def test_every_public_name_is_there() -> None:
    for line in LIST.read_text(encoding="utf-8").split():
        module, _, name = line.rpartition(".")
        assert hasattr(import_module(module), name), line


if __name__ == "__main__":
    LIST.write_text(exported(), encoding="utf-8")
