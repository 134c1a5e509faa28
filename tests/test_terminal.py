"""What reaches the terminal is text: nothing in it is obeyed, and a reader that goes away is no accident."""

from __future__ import annotations

import os
import subprocess
import sys
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xmi
from tests.command import run_xmi
from xmi import cli
from xmi.progress import track
from xmi.terminal import put, put_table, visible

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]red[/bold] [/INST] :smile: \u202egnp\x9b1m\r\u2028"


def obeyed(text: str) -> list[str]:
    return [c for c in text if (category(c) in ("Cc", "Cs", "Zl", "Zp") and c != "\n") or c in "\u202e\u2066"]


@pytest.mark.fault("E12")
@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert not obeyed(visible(text).replace("\t", ""))
    assert not obeyed(visible(text, lines=False)) and "\n" not in visible(text, lines=False)
    visible(text).encode()
    if not obeyed(text.replace("\t", "")) and not any(0x061C <= ord(c) <= 0x2069 for c in text):
        assert visible(text) == text


@pytest.mark.fault("E12", "E13")
def test_text_in_tables_and_lines_is_neither_markup_nor_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    put_table(HOSTILE, ["name", HOSTILE], [("a", HOSTILE)], width=300)
    put(HOSTILE)
    shown = capsys.readouterr().out
    assert not obeyed(shown)
    assert shown.count("[bold]red[/bold] [/INST] :smile:") == 4


@pytest.mark.fault("E13")
@pytest.mark.parametrize("prompt", ["France -> [/INST]", "[red]x[/red] \x1b[31m", "[/", r"\[bold]"])
def test_a_prompt_on_the_command_line_is_text(
    prompt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["xmi", "lens", "organism-llm", "-k", "1", "-p", prompt])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"organism-llm: last token of {prompt!r}" in capsys.readouterr().out


@pytest.mark.fault("E13")
def test_a_description_of_progress_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.openpty()
    monkeypatch.setattr(sys, "stderr", os.fdopen(write, "w"))
    monkeypatch.setenv("COLUMNS", "200")
    assert list(track([1, 2], "[/INST] [red]a[/red] \x07:smile:")) == [1, 2]
    sys.stderr.close()
    shown = os.read(read, 10_000).decode()
    assert "[/INST] [red]a[/red] \\x07:smile:" in shown


@pytest.mark.fault("E12")
def test_errors_warnings_and_misspelt_commands_are_shown_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["run", f"no{HOSTILE}such"], [HOSTILE], ["run", f"--{HOSTILE}"], ["report", HOSTILE]):
        monkeypatch.setattr(sys, "argv", ["xmi", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (1, 2)
        said = capsys.readouterr().err
        assert "error" in said
        assert not obeyed(said)


@pytest.mark.fault("E14")
def test_a_reader_that_goes_away_ends_it_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr("xmi.study.estimate.dry_run", lambda **_: "line\n" * 100_000)
    monkeypatch.setattr(sys, "argv", ["xmi", "run", "organism", "--dry-run"])
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    sys.stdout.close()


@pytest.mark.fault("E14")
@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams_are_no_accident(closed: tuple[int, ...]) -> None:
    code = "from xmi.cli import main; main()"

    def close() -> None:
        for number in closed:
            os.close(number)

    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--help"], preexec_fn=close, stderr=subprocess.PIPE, check=False
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_a_full_disk_behind_standard_output_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from xmi.cli import main; main()", "--help"],
        stdout=os.open("/dev/full", os.O_WRONLY),
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


@pytest.mark.fault("E14")
def test_an_interrupt_ends_every_command_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(xmi, "load", interrupted, raising=False)
    for command in (["check", "organism"], ["lens", "organism", "-p", "x"], ["remote", "status", "organism"]):
        monkeypatch.setattr(sys, "argv", ["xmi", *command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 130
        assert "Traceback" not in capsys.readouterr().err


def test_help_needs_no_terminal() -> None:
    assert run_xmi("--help").returncode == 0


def test_a_place_without_a_host_has_no_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local = xmi.load("organism", check=False)
    monkeypatch.setattr(xmi, "load", lambda *_, **__: local)
    monkeypatch.setattr(sys, "argv", ["xmi", "remote", "status", "organism"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "LocalBackend has no host to ask" in capsys.readouterr().err
