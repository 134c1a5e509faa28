"""The atlas that is made here: it continues, refuses what is of another plan, and its page shows its models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analyses.atlas.__main__ import main
from xmi.study.folder import FINISHED


def atlas(out: Path, *models: str, task: str = "country-capital") -> None:
    main(["--out", str(out), "--seeds", "1", "--tasks", task, "--models", *models])


@pytest.mark.nightly
def test_an_atlas_continues_and_names_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atlas(tmp_path, "idefics3")
    first = (tmp_path / "idefics3" / FINISHED).read_bytes()
    assert capsys.readouterr().err.count("queries") == 1
    atlas(tmp_path, "idefics3", "gemma3")
    out, said = capsys.readouterr()
    assert (tmp_path / "idefics3" / FINISHED).read_bytes() == first
    assert "idefics3 · country-capital" not in said and "gemma3 · country-capital" in said
    assert {row.split()[1] for row in out.splitlines() if "0." in row} == {"idefics3", "gemma3"}
    html = (tmp_path / "atlas.html").read_text(encoding="utf-8")
    assert "<h1>2 models of 2 runs</h1>" in html
    links = set(re.findall(r'<a href="([^"#]+)#', html))
    assert links == {"idefics3/report.html", "gemma3/report.html"}
    assert all((tmp_path / link).is_file() for link in links)
    with pytest.raises(SystemExit, match=r"models/gemma3: RunError: .* is of another study than the one asked for"):
        atlas(tmp_path, "gemma3", task="food-color")
    assert (tmp_path / "atlas.html").read_text(encoding="utf-8") == html
