"""The pages for developers: what they name exists, and every worked change applies and does what its page shows."""

from __future__ import annotations

import ast
import builtins
import os
import re
import shutil
import subprocess
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import xmi
from tests.command import run

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "developing").glob("*.md"))
WORKED = [page for page in PAGES if "```diff" in page.read_text(encoding="utf-8")]


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def named(page: Path) -> list[str]:
    """What stands in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))


@cache
def contracts() -> dict[str, Any]:
    """Those of import-linter, by their id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["id"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}


@cache
def known() -> set[str]:
    """Every name that a module of xmi binds, and every key of its configuration."""
    found = {*dir(builtins), *xmi.__all__}
    for file in (ROOT / "xmi").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                    found.add(name)
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    found.add(name)
    return found | {*contracts(), "importlinter"}


def resolve(dotted: str) -> Any:
    """A module, or what stands in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            fields = getattr(found, "__dataclass_fields__", {}) | getattr(found, "model_fields", {})
            found = fields[part] if part in fields else getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    new = " ".join(blocks(page, "diff"))
    for name in named(page):
        if re.fullmatch(r"xmi(\.\w+)+(\(.*\))?", name):
            try:
                resolve(name.partition("(")[0])
            except (AttributeError, ModuleNotFoundError):
                assert name in new, f"{name} does not exist"
        elif re.fullmatch(r"(xmi|tests|docs)/[\w./]*|\w+\.(toml|md|yml)", name):
            assert (ROOT / name).exists() or f"+++ b/{name}" in new, f"{name} does not exist"
        elif re.fullmatch(r"(\w+\.)?[A-Za-z_]\w*(\(.*\))?", name):
            assert name.partition("(")[0].split(".")[-1] in known() or f'"{name}"' in new, f"nothing is called {name}"


def test_the_drawing_has_the_rooms_in_the_contracts_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "rooms")
    drawn = blocks(ROOT / "docs" / "developing" / "architecture.md", "text")[0].splitlines()
    assert [re.split(r"\s{2,}", line)[0] for line in drawn] == [layer.replace(" | (data)", "") for layer in layers]


def test_every_page_is_in_the_navigation() -> None:
    docs, text = ROOT / "docs", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(docs).as_posix() for kind in ("md", "ipynb") for path in docs.rglob(f"*.{kind}")}
    assert pages == set(re.findall(r": ([\w/-]+\.(?:md|ipynb))$", text, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("patch") is None, reason="no patch found")
@pytest.mark.parametrize("page", WORKED, ids=lambda page: page.stem)
def test_a_worked_change_applies_and_does_what_its_page_shows(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "xmi", tmp_path / "xmi", ignore=shutil.ignore_patterns("__pycache__"))
    (change,), (code,), (said,) = blocks(page, "diff"), blocks(page, "python"), blocks(page, "text")
    patch = ["patch", "-p1", "--forward", "--fuzz=0"]
    done = subprocess.run(patch, input=change, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{done.stdout}{done.stderr}The change is to be made anew, against today's code."
    done = run(code, cwd=tmp_path, environment={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stdout == said, done.stderr
