"""The command line as a user meets it: quick help, clear refusals, exit codes, kept work."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import xmi
from tests.command import listen_to_interrupts, run_xmi
from tests.zoo.world import make_world
from xmi.cli import main


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny VLM and one task."""
    return make_world(tmp_path_factory.mktemp("cli"))


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, xmi, xmi.cli; "
        "heavy = {'torch', 'transformers', 'nnsight', 'pandas', 'plotly', 'sklearn', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    done = run_xmi("--help")
    assert done.returncode == 0
    for command in ("demo", "run", "lens", "report"):
        assert command in done.stdout


def test_public_names_exist() -> None:
    for name in xmi.__all__:
        assert getattr(xmi, name) is not None
    assert set(xmi.__all__) <= set(dir(xmi))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = xmi.nonsense


def test_run_and_report(eye: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [
        "--task",
        str(eye / "capital.json"),
        "--shots",
        "2",
        "--prompts",
        "3",
        "--seeds",
        "1",
        "--out",
        str(out),
    ]
    done = run_xmi("run", str(eye / "eye"), "--base", str(eye / "base"), *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(out / "report.html")
    assert "text vector patched in (xPatch)" in done.stdout
    assert "[6/6]" in done.stderr, "progress is shown"
    page = (out / "report.html").read_bytes()
    again = run_xmi("report", str(out), "--out", str(tmp_path / "again.html"))
    assert again.returncode == 0, again.stderr
    assert len((tmp_path / "again.html").read_bytes()) == len(page)


def test_lens(eye: Path) -> None:
    done = run_xmi("lens", str(eye / "eye"), "-p", r"Q:<image>\nA:", "-i", str(eye / "0.png"), "-k", "2")
    assert done.returncode == 0, done.stderr
    assert "embed" in done.stdout
    assert all(f" {layer} " in done.stdout for layer in range(4))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "no-such-model"], "Cannot load 'no-such-model'"),
        (["run", "EYE", "--task", "no-such-task"], "No task 'no-such-task'"),
        (["run", "EYE", "--task", "TASK", "--shots", "4"], "4 train item(s), but 4 shots need 5"),
        (["run", "EYE", "--task", "TASK", "--shots", "2", "--out", "TASK/run"], "Cannot write to the run folder"),
        (["run", "TEXT", "--task", "TASK", "--shots", "2", "--target", "image"], "text-only"),
        (["lens", "EYE", "-p", "Q:<image> <image>", "-i", "PICTURE"], "2 place(s) for images"),
        (["lens", "EYE", "-p", "Q:<image>", "-i", "TASK"], "Cannot open the image"),
        (["report", "EYE"], "no study.json"),
    ],
)
def test_refusals_are_one_clear_message(
    eye: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"EYE": eye / "eye", "TEXT": eye / "base", "TASK": eye / "capital.json", "PICTURE": eye / "0.png"}
    filled = [str(names.get(a, a)).replace("TASK", str(names["TASK"])) for a in arguments]
    if filled[0] == "run" and "--out" not in filled:
        filled += ["--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["xmi", *filled])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_keeps_what_is_finished(eye: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = "import sys; from xmi.cli import main; sys.exit(main())"
    arguments = ["run", str(eye / "eye"), "--task", str(eye / "capital.json"), "--shots", "2", "--seeds", "40"]
    command = [sys.executable, "-c", code, *arguments, "--prompts", "3", "--out", str(out)]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, preexec_fn=listen_to_interrupts, **pipes) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("[ 2/"):
                time.sleep(0.02)
                process.send_signal(signal.SIGINT)
                break
        said += process.stderr.read()
        process.wait()
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert len(list((out / "cells").glob("*.json"))) >= 2


def test_check_prints_what_was_found(eye: Path) -> None:
    folder = run_xmi("check", str(eye / "eye"))
    assert folder.returncode == 0, folder.stderr
    assert "deviation" not in folder.stdout
    done = run_xmi("check", "organism")
    assert done.returncode == 0, done.stderr
    for said in (
        "readout: equals the model's logits to 0",
        "causal: yes",
        "image: blanking it",
        "hooks: ",
        "deviation:",
    ):
        assert said in done.stdout
    assert run_xmi("check", "no-such-model").returncode == 1


def test_version_names_what_numbers_depend_on() -> None:
    done = run_xmi("--version")
    assert done.returncode == 0, done.stderr
    for package in ("xmi", "torch", "transformers", "nnsight", "python"):
        assert f"{package} " in done.stdout
