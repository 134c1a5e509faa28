"""Keys of a plan, flags, options of loading and what documents say of them are one and the same."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import xmi
from xmi import cli
from xmi.prompt import task_names
from xmi.study import run_study
from xmi.study.plan import FOLDER, LOADING, SOURCES, Plan, Running, make_plan, read_plan
from xmi.study.prepare import prepare

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KEYS = (*Plan.model_fields, *Running.model_fields, *LOADING)
COMMANDS: Any = typer.main.get_command(cli.app)
ALONE = {
    "source": "the plan's model",
    "processor": "an object",
    "revision": "each has one",
    "check": "always done",
}
"""Options of `xmi.load` that a study does not take, and why."""


def flags(*command: str) -> dict[str, set[str]]:
    """The flags of a command, by the name of what they set."""
    found = COMMANDS
    for name in command:
        found = found.commands[name]
    return {p.name: {*p.opts, *p.secondary_opts} for p in found.params}


def block() -> str:
    """The plan in docs/study.md."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/study.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


@pytest.mark.fault("C8")
def test_every_key_is_a_flag_and_every_flag_a_key() -> None:
    given = flags("run")
    for key in KEYS:
        if key != "model":  # the argument
            assert f"--{key.replace('_', '-')}" in given[key], key
    assert set(given) == {*KEYS, "plan", "fork", "dry_run"}, "a flag that is no key is about the command itself"


@pytest.mark.fault("C8")
def test_every_option_of_loading_is_a_key_or_known_not_to_be() -> None:
    assert set(inspect.signature(xmi.load).parameters) == {*LOADING, *ALONE}
    assert set(inspect.signature(run_study).parameters) == {*Plan.model_fields, *Running.model_fields} | {
        "plan", "fork", "say", "options",
    }  # fmt: skip
    for command in ("lens", "check"):
        assert set(LOADING) - {"remote", "wait", "in_flight", "resubmit", "batch_size"} <= set(flags(command))


@pytest.mark.fault("C8")
def test_the_documented_plan_holds_every_key_with_its_default(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(block(), encoding="utf-8")
    said = read_plan(file)
    assert set(said) == set(KEYS)
    shown = {"model", "base", "out", "tasks", "device", "dtype", "wait"}  # examples of what has no default
    plan = make_plan(model="m", base="b", tasks=task_names())
    for key in Plan.model_fields:
        if key not in shown:
            value = said[key] if not isinstance(said[key], list) else tuple(said[key])
            assert value == getattr(plan, key), key
    assert set(said["sources"]) == set(SOURCES)
    assert make_plan(**{k: v for k, v in said.items() if k in Plan.model_fields}).model == said["model"]


OTHERS: dict[str, tuple[str, Any]] = {
    "revision": ("r", "r"),
    "base": ("b", "b"),
    "base_revision": ("br", "br"),
    "control": ("c", "c"),
    "control_revision": ("cr", "cr"),
    "tasks": ("food-color", ("food-color",)),
    "sources": ("text ICL", ("text ICL",)),
    "targets": ("text", ("text",)),
    "controls": ("none", ()),
    "layers": ("0,2-4", (0, 2, 3, 4)),
    "slot": ("query.input", None),
    "patch_slot": ("query.prefix", None),
    "shots": ("3", 3),
    "prompts": ("7", 7),
    "vectors_from": ("validation", None),
    "seeds": ("4,6", (4, 6)),
    "score": ("strict", None),
    "ties": ("first", None),
    "points": ("5", 5),
    "task_words": ("found", None),
    "lens": ("tuned", None),
    "experiments": ("overriding", ("overriding",)),
    "preset": ("paper", None),
    "out": ("x", None),
    "on": ("ray://node:10001", None),
    "workers": ("2", 2),
    "gpus_per_model": ("0.5", 0.5),
    "device": ("cpu", None),
    "dtype": ("float32", None),
    "batch_size": ("3", 3),
    "device_map": ("auto", None),
    "quantization": ("8bit", None),
    "attn_implementation": ("eager", None),
    "remote": ("http://x", None),
    "wait": ("1.5", 1.5),
    "in_flight": ("2", 2),
}
"""A value for every key that takes one: as a flag has it, and as the plan has it if that is something else."""


@pytest.mark.fault("C8")
def test_what_a_flag_says_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = {"chat", "untrained", "whole", "trust_remote_code", "resubmit"}
    assert {*OTHERS, *switches, "model"} == set(KEYS)
    monkeypatch.setattr(cli, "_study", lambda **given: arrived.update(given))
    words = [word for key, (value, _) in OTHERS.items() for word in (f"--{key.replace('_', '-')}", value)]
    words += ["--chat", "--untrained", "--first", "--trust-remote-code", "--no-resubmit"]
    arrived: dict[str, Any] = {}
    monkeypatch.setattr(sys, "argv", ["xmi", "run", "m", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    plan = make_plan(**{k: v for k, v in arrived.items() if k in Plan.model_fields})
    for key, (value, meant) in OTHERS.items():
        found = getattr(plan, key) if key in Plan.model_fields else arrived[key]
        expected = value if meant is None else meant
        assert (str(found) if key == "out" else found) == expected, key
    assert (plan.chat, plan.untrained, plan.whole) == (True, True, False)
    assert (arrived["trust_remote_code"], arrived["resubmit"]) == (True, False)


def lines() -> list[tuple[str, str]]:
    """Every line of a shell block, with its page."""
    found = []
    for page in PAGES:
        for text in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            joined = text.replace("\\\n", " ")
            found += [(str(page.relative_to(ROOT)), line.strip()) for line in joined.splitlines() if line.strip()]
    return found


@pytest.mark.fault("C7")
@pytest.mark.parametrize(("page", "line"), lines())
def test_every_shell_line_of_a_document_is_a_command_that_is_there(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):  # the environment
        words = words[1:]
    if not words:
        return
    if words[0] == "xmi":
        command, rest = COMMANDS, words[1:]
        with command.make_context("xmi", list(rest), resilient_parsing=True):
            pass
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(command.name, list(rest))  # refuses unknown flags and lacking arguments
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word and not word.startswith("-")} <= set(targets), line
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) or words[2].split(".")[0] in ("venv", "pip"), line
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), line


@pytest.mark.fault("C7")
def test_the_dry_run_of_the_readme_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = [text for page, text in lines() if page == "README.md" and "--dry-run" in text]
    monkeypatch.chdir(tmp_path)
    wanted = {"model": "organism-llm", "tasks": ["country-capital"], "seeds": 1, "experiments": "none"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"Run folder {FOLDER}" in said
    assert "Nothing was computed or written." in said
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.fault("E10")
@pytest.mark.parametrize(
    "wanted",
    [
        {"layers": "0-300000000"},
        {"layers": "0-9999,0-9999"},
        {"layers": ",".join(["1"] * 100_000)},
        {"layers": range(10**12)},
        {"layers": [10**30]},
        {"seeds": 10**9},
        {"seeds": "999999999"},
        {"seeds": "0-99999999999999999999"},
        {"seeds": range(10**12)},
        {"shots": 10**9},
        {"prompts": 10**30},
        {"points": 10**9},
        {"batch_size": 10**9},
        {"workers": 10**9},
        {"tasks": ["x"] * 100_000},
        {"tasks": ["x" * 100_000]},
        {"controls": ",".join(["random vector"] * 10)},
    ],
    ids=str,
)
def test_no_plan_is_too_large_to_be_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(xmi.RunError) as caught:
        prepare(**{"model": "organism", "tasks": ("country-capital",), "out": "x", **wanted})
    assert len(str(caught.value)) < 2000
