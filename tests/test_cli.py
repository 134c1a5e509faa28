"""The command line as a user meets it: quick help, clear refusals, exit codes, kept work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import xmi
from tests.command import CLI, run_xmi, start
from tests.zoo.world import make_world
from xmi.cli import main
from xmi.cli.flags import PANELS
from xmi.study.plan import LOADING, Plan, Running


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
    arguments = ["run", str(eye / "eye"), "--task", str(eye / "capital.json"), "--shots", "2", "--seeds", "40"]
    arguments += ["--prompts", "3", "--out", str(out)]
    with start(CLI, *arguments, stderr=subprocess.PIPE) as process:
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
    for said in (
        "readout: equals the model's logits to ",
        "causal: yes",
        "image: blanking it",
        "hooks: ",
    ):
        assert said in folder.stdout
    assert folder.stdout.splitlines()[-1].startswith(f"PASS {eye / 'eye'} (")
    assert folder.stderr.splitlines()[0] == f"Loading {eye / 'eye'} ..."


def test_a_model_that_does_not_compute_what_xmi_reads_fails_its_check(
    eye: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(eye / "eye", tmp_path / "bad")
    weights = load_file(tmp_path / "bad" / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    weights[name][0, 0] = float("nan")
    save_file(weights, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    for model in (str(tmp_path / "bad"), "no-such-model"):
        monkeypatch.setattr(sys, "argv", ["xmi", "check", model])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 1 and said.out == f"FAIL {model}\n"
        assert "error (ModelError)" in said.err


def test_deviations_are_told_and_are_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["xmi", "check", "organism"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "deviation:" in said
    assert said.splitlines()[-1].startswith("PASS organism (")


def test_tasks_and_models_are_listed(
    eye: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cache = tmp_path / "models--owner--some-vlm"
    for part in ("blobs", "refs", "snapshots/abc"):
        (cache / part).mkdir(parents=True)
    config = '{"text_config": {"num_hidden_layers": 3, "hidden_size": 24}, "vision_config": {}}'
    (cache / "snapshots/abc/config.json").write_text(config, encoding="utf-8")
    (cache / "refs/main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path))
    shown = []
    for arguments in (["tasks"], ["tasks", str(eye / "capital.json")], ["models"]):
        monkeypatch.setattr(sys, "argv", ["xmi", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        shown.append(capsys.readouterr().out)
    ours, own, models = shown
    assert all(name in ours for name in xmi.task_names()) and "65 / 11 / 19" in ours
    assert "4 / 2 / 2" in own and "country-capital" not in own
    assert "organism-control" in models and "8 x 128" in models
    assert "owner/some-vlm" in models and "3 x 24" in models


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("xmi ta", ["tasks"]),
        ("xmi check organism-", ["organism-llm", "organism-control"]),
        ("xmi tasks country-", ["country-capital", "country-currency"]),
        ("xmi run organism --cha", ["--chat"]),
    ],
)
def test_the_shell_completes_commands_models_tasks_and_flags(typed: str, found: list[str]) -> None:
    words = {"_XMI_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    code = "import sys; sys.argv = ['xmi']; from xmi.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == found, done.stderr


def test_flags_of_a_study_stand_in_groups() -> None:
    said = run_xmi("run", "--help").stdout
    places = [said.index(panel) for panel in PANELS]
    assert len(places) == len(set(places)) == 6
    keys = {*Plan.model_fields, *Running.model_fields, *LOADING}
    assert {name for names in PANELS.values() for name in names} <= keys


def test_an_error_that_nobody_foresaw_is_two_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(xmi, "load", broken, raising=False)
    monkeypatch.setattr(sys, "argv", ["xmi", "lens", "organism", "-p", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 70 and said[-2] == "error (RuntimeError): first line"
    assert said[-1].startswith("This was not foreseen (at ") and "XMI_TRACEBACK=1" in said[-1]
    monkeypatch.setenv("XMI_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="second line"):
        main()


def test_something_is_said_before_torch_is_imported(eye: Path, tmp_path: Path) -> None:
    code = "import sys; from xmi.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", str(eye / "eye"), "--task", "no-such", "--out", str(tmp_path / "r")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        first, loaded = process.stderr.readline(), Path(f"/proc/{process.pid}/maps").read_text("utf-8")
        process.stderr.read()
    assert first.startswith("Ctrl-C is safe") and "libtorch" not in loaded


def test_version_names_what_numbers_depend_on() -> None:
    done = run_xmi("--version")
    assert done.returncode == 0, done.stderr
    for package in ("xmi", "torch", "transformers", "nnsight", "python"):
        assert f"{package} " in done.stdout
