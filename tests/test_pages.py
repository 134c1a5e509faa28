"""Pages whose code is run: what a block prints is what stands below it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("chat.md", "data.md", "steering.md")


@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_prints_what_stands_below_it(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page}
    found = re.findall(r"```python\n((?:(?!```).)*)```\n+```text\n(.*?)```", text, re.DOTALL)
    assert found
    for code, expected in found:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, page, "exec"), names)
        assert said.getvalue().split() == expected.split(), code
