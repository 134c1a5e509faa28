"""The script around the real server, without that server: what it installs, refuses, waits for, hands on and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from nnsight import TransformersModel
from nnsight.modeling.huggingface import _ID_CACHE
from safetensors.numpy import load_file, save_file
from transformers import AutoProcessor, AutoTokenizer

from analyses.real_ndif import installation, namespace, server
from analyses.real_ndif.__main__ import MODELS, arguments
from analyses.real_ndif.hub import serving
from analyses.real_ndif.inside import client
from analyses.real_ndif.server import ServerError, model_key, running, settings, wait
from analyses.real_ndif.study import differences
from tests.command import listen_to_interrupts

ROOT = Path(__file__).parents[2]
ORGANISM = ROOT / "xmi" / "data" / "organism"
VLM, LLM = ORGANISM / "vlm", ORGANISM / "llm"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class TestCommandLine:
    def test_what_stands_behind_the_dashes_is_the_command(self) -> None:
        asked = arguments(["here", "--dtype", "bfloat16", "--", "xmi", "run", "--", "--dtype", "float32"])
        assert (asked.home, asked.dtype) == (Path("here"), "bfloat16")
        assert asked.command == ["xmi", "run", "--", "--dtype", "float32"]

    def test_by_default_the_study_of_the_embedded_model(self) -> None:
        asked = arguments(["here"])
        assert asked.models == {"xmi/organism": VLM}
        assert asked.command == [sys.executable, "-m", "analyses.real_ndif.study", "--out", "here/runs"]

    def test_other_models_by_id_and_folder(self, tmp_path: Path) -> None:
        asked = arguments(["here", "--model", f"a/b={tmp_path}", "--model", f"c/d={LLM}", "--", "true"])
        assert asked.models == {"a/b": tmp_path, "c/d": LLM}
        assert MODELS == {"xmi/organism": VLM}

    def test_other_models_need_a_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            arguments(["here", "--model", f"c/d={LLM}"])
        assert "say behind `--` what is to be run" in capsys.readouterr().err

    @pytest.mark.parametrize("given", ["organism", "organism=folder", "a/b/c=folder"])
    def test_a_model_without_id_or_folder_is_refused(self, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            arguments(["here", "--model", given])
        assert f"expected ORG/NAME=FOLDER, found {given!r}" in capsys.readouterr().err

    def test_a_folder_without_a_model_is_refused_before_anything_is_made(self, tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "analyses.real_ndif",
            tmp_path / "home",
            "--model",
            f"a/b={tmp_path}",
            "--",
            "true",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert f"error: {tmp_path} holds no model that could be served as a/b" in done.stderr
        assert not (tmp_path / "home").exists()


class TestHub:
    @pytest.fixture
    def url(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with serving({"xmi/organism": VLM, "xmi/organism-llm": LLM}) as url:
            yield url

    def test_it_knows_a_model_and_its_size(self, url: str) -> None:
        for id, folder in (("xmi/organism", VLM), ("xmi/organism-llm", LLM)):
            found = HfApi(endpoint=url).model_info(id)
            assert found.id == id
            assert found.safetensors is not None
            assert found.safetensors.total == sum(t.size for t in load_file(folder / "model.safetensors").values())
            assert {entry.rfilename for entry in found.siblings or ()} == {path.name for path in folder.iterdir()}

    def test_files_arrive_whole(self, url: str, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            found = hf_hub_download("xmi/organism", name, endpoint=url, cache_dir=tmp_path)
            assert Path(found).read_bytes() == (VLM / name).read_bytes()

    def test_what_it_does_not_have(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(EntryNotFoundError):
            hf_hub_download("xmi/organism", "adapter_config.json", endpoint=url, cache_dir=tmp_path)
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download("xmi/organism", "config.json", revision="other", endpoint=url, cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=url).model_info("xmi/other")
        assert hf_hub_download("xmi/organism", "config.json", endpoint=url, cache_dir=tmp_path)  # none of it lingers

    def test_nothing_outside_of_the_folder_is_served(self, url: str) -> None:
        for name in ("..%2Fllm%2Fconfig.json", "%2Fetc%2Fhostname", ".."):
            answer = httpx.get(f"{url}/xmi/organism/resolve/main/{name}")
            assert (answer.status_code, answer.content) == (404, b"")
        assert httpx.get(f"{url}/xmi/organism/resolve/main/config.json").json()["model_type"] == "llava"


class TestModelKey:
    @pytest.mark.parametrize(
        ("folder", "task", "part"),
        [(VLM, "image-text-to-text", "processor"), (LLM, "text-generation", "tokenizer")],
    )
    def test_it_is_nnsights(self, folder: Path, task: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(_ID_CACHE, str(folder), "some/model")
        kinds: dict[str, Any] = {"processor": AutoProcessor, "tokenizer": AutoTokenizer}
        model = TransformersModel(str(folder), task=task, **{part: kinds[part].from_pretrained(folder)})
        assert model_key("some/model", folder) == model.to_model_key()

    def test_an_unreadable_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(ServerError, match=f"{tmp_path} holds no model"):
            model_key("a/b", tmp_path)


class TestSettings:
    def test_the_server_gets_nothing_of_the_users_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("NDIF_API_KEY", "HF_TOKEN", "PYTHONPATH", "NDIF_POSTGRES_URL", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "of the user")
        found = settings(tmp_path, tmp_path / "ray", ["one", "two"], "bfloat16")
        assert "of the user" not in found.values()
        assert found["NDIF_DEPLOYMENTS"] == "one|two"
        assert found["NDIF_DEFAULT_DTYPE"] == "bfloat16"
        assert [path.name for path in Path(found["PYTHONPATH"]).glob("*.py")] == ["cpu_actors.py"]
        assert json.loads(found["RAY_OVERRIDE_RESOURCES"])["CPU"] == 3  # the controller, and one per model

    def test_the_command_gets_a_key_of_its_own_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NDIF_API_KEY", "of the user")
        env = {"HF_ENDPOINT": "http://hub", "HF_HOME": "cache"}
        first, second = client(env), client(env)
        assert first["NDIF_HOST"] == "http://127.0.0.1:8001"
        assert first["HF_ENDPOINT"] == "http://hub"
        assert len({first["NDIF_API_KEY"], second["NDIF_API_KEY"], "of the user"}) == 3


class TestInstallation:
    @pytest.fixture
    def python(self, tmp_path: Path) -> Callable[[str], Path]:
        """A Python 3.12 whose environments have a pip that keeps a log and, asked for some words, fails."""

        def made(failing: str = "nothing at all") -> Path:
            pip = f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ncase "$*" in *\'{failing}\'*) exit 1;; esac\n'
            return executable(
                tmp_path / "python",
                f'#!/bin/sh\n[ "$1" = -c ] && echo 3 12 && exit\necho venv >> {tmp_path}/log\nmkdir -p "$4/bin"\n'
                f'cat > "$4/bin/python" <<\'END\'\n{pip}END\nchmod +x "$4/bin/python"\n',
            )

        return made

    def log(self, tmp_path: Path) -> list[str]:
        return (tmp_path / "log").read_text().splitlines()

    def test_a_cpu_build_of_torch_comes_first_and_the_server_with_our_versions(
        self, tmp_path: Path, python: Callable[[], Path]
    ) -> None:
        installation.install(tmp_path / "home", python(), index="http://index")
        venv, torch, rest = self.log(tmp_path)
        release = version("torch").partition("+")[0]
        assert venv == "venv"
        assert torch.endswith(f"install --quiet --no-deps --extra-index-url http://index torch=={release}+cpu")
        assert f" torch=={release}+cpu ndif[api,ray]==0.1.2 " in rest
        assert f"nnsight=={version('nnsight')} transformers=={version('transformers')}" in rest

    def test_what_is_installed_is_not_installed_again(self, tmp_path: Path, python: Callable[[], Path]) -> None:
        installation.install(tmp_path / "home", python(), cuda=True)
        installation.install(tmp_path / "home")  # with either build of torch, and whatever Python there is
        assert len(self.log(tmp_path)) == 3

    def test_other_versions_are(
        self, tmp_path: Path, python: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installation.install(tmp_path / "home", python())
        monkeypatch.setattr(installation, "SERVER", ("ndif==9",))
        installation.install(tmp_path / "home", python())
        assert len(self.log(tmp_path)) == 6

    def test_without_a_cpu_build_nothing_else_is_installed(self, tmp_path: Path, python: Callable[[str], Path]) -> None:
        with pytest.raises(ServerError, match=r"torch==\S+\+cpu could not be installed .* --cuda-torch"):
            installation.install(tmp_path / "home", python("+cpu"))
        assert len(self.log(tmp_path)) == 2
        assert not (tmp_path / "home" / "installed.json").exists()

    def test_cuda_only_when_asked_for(self, tmp_path: Path, python: Callable[[str], Path]) -> None:
        installation.install(tmp_path / "home", python("+cpu"), cuda=True, index="http://index")
        assert not any("+cpu" in line or "http://index" in line for line in self.log(tmp_path))

    def test_a_broken_installation_is_begun_anew(self, tmp_path: Path, python: Callable[[str], Path]) -> None:
        with pytest.raises(ServerError, match="pip could not install the server"):
            installation.install(tmp_path / "home", python("ndif"))
        installation.install(tmp_path / "home", python())
        assert self.log(tmp_path).count("venv") == 2

    def test_a_python_of_another_version(self, tmp_path: Path) -> None:
        old = executable(tmp_path / "python", "#!/bin/sh\necho 3 11\n")
        with pytest.raises(ServerError, match=rf"Python 3.12 or 3.13, but {old} is 3.11"):
            installation.interpreter(old)
        with pytest.raises(ServerError, match="is no Python that can be run"):
            installation.interpreter(tmp_path / "absent")

    def test_a_shim_without_its_python_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "this", "#!/bin/sh\necho 3 11\n")))
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
        executable(tmp_path / "python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2; exit 127\n")
        with pytest.raises(ServerError, match="--python PATH"):
            installation.interpreter(None)
        there = executable(tmp_path / "python3.13", "#!/bin/sh\necho 3 13\n")
        assert installation.interpreter(None) == there


class TestNamespace:
    def test_without_the_tools(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ServerError, match="unshare and ip of Linux' util-linux and iproute2"):
            namespace.entering()

    def test_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        executable(tmp_path / "unshare", "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
        executable(tmp_path / "ip", "#!/bin/sh\n")
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(ServerError, match=r"does not permit one \(unshare failed: Operation not permitted\)"):
            namespace.entering()


class TestWaiting:
    @pytest.fixture
    def host(self) -> Iterator[Callable[[list[tuple[int, Any]]], str]]:
        """A host that gives these answers, and the last one for ever."""
        servers: list[HTTPServer] = []

        def made(answers: list[tuple[int, Any]]) -> str:
            class Answers(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(json.dumps(body).encode())

                def log_message(self, *_: object) -> None:
                    pass

            servers.append(HTTPServer(("127.0.0.1", 0), Answers))
            Thread(target=servers[-1].serve_forever, args=[0.02], daemon=True).start()
            return f"http://127.0.0.1:{servers[-1].server_port}"

        yield made
        for one in servers:
            one.shutdown()
            one.server_close()

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "NAP", 0.01)

    def test_until_all_models_run(self, host: Callable[[list[tuple[int, Any]]], str]) -> None:
        one = {"model_key": "one", "application_state": "RUNNING"}
        two = {"model_key": "two", "application_state": "DEPLOYING"}
        cold = {"repo_id": "c/d", "deployment_level": "COLD"}
        bare = {"application_state": "RUNNING"}  # what the controller does not track has no key
        answers = [
            (503, {"detail": "reconnecting"}),
            (200, {"deployments": {}}),
            (200, {"deployments": {"1": one, "2": two, "3": bare, "4": cold}}),
            (200, {"deployments": {"1": one, "2": two | {"application_state": "RUNNING"}}}),
        ]
        wait(["one", "two"], lambda: None, 10, host(answers))
        assert len(answers) == 1

    def test_not_for_ever(self, host: Callable[[list[tuple[int, Any]]], str]) -> None:
        url = host([(200, {"deployments": {"1": {"model_key": "other", "application_state": "RUNNING"}}})])
        with pytest.raises(ServerError, match=r"one did not become ready within 0 s; last found: .*other"):
            wait(["one"], lambda: None, 0.2, url)

    def test_not_for_what_has_ended(self, tmp_path: Path) -> None:
        failing = {"ndif": ["sh", "-c", "echo port in use; exit 3"]}
        with (
            pytest.raises(ServerError, match=r"ndif ended with status 3.\nport in use"),
            running(failing, {}, tmp_path) as check,
        ):
            wait(["one"], check, 10, "http://127.0.0.1:9")

    def test_not_for_what_cannot_be_run(self, tmp_path: Path) -> None:
        commands = {"store": ["sleep", "77"], "ndif": [str(tmp_path / "absent")]}
        with pytest.raises(ServerError, match=r"ndif cannot be run: .*absent"), running(commands, {}, tmp_path):
            pytest.fail("one of the processes is not there")

    def test_processes_end_with_their_children(self, tmp_path: Path) -> None:
        store = ["sh", "-c", "sleep 77 & echo $! > child; wait"]
        with running({"store": store}, {"PATH": os.environ["PATH"]}, tmp_path) as check:
            while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
                check()
                time.sleep(0.01)
            child = Path("/proc") / (tmp_path / "child").read_text().strip() / "cmdline"
            until = time.monotonic() + 5
            while b"77" not in child.read_bytes() and time.monotonic() < until:  # its shell writes before it is `sleep`
                time.sleep(0.01)
            assert b"77" in child.read_bytes()
        until = time.monotonic() + 5
        while child.exists() and child.read_bytes() and time.monotonic() < until:  # a zombie's is empty
            time.sleep(0.01)
        assert not child.exists() or not child.read_bytes()


def permitted() -> bool:
    try:
        return bool(namespace.entering())
    except ServerError:
        return False


FAKE = """#!{python}
import json, os, subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
subprocess.Popen(["sleep", "3456.{mark}"], start_new_session=True)  # a daemon, as Ray has them
class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        key = os.environ["NDIF_DEPLOYMENTS"]
        state = {{"model_key": key, "application_state": "RUNNING"}}
        self.wfile.write(json.dumps({{"deployments": {{key: state}}}}).encode())
HTTPServer(("0.0.0.0", int(os.environ["NDIF_API_PORT"])), Answers).serve_forever()
"""


@pytest.mark.skipif(not permitted(), reason="network and process namespaces are not permitted here")
class TestTheWhole:
    """Everything but the server, in whose place are two scripts; one leaves a daemon behind."""

    @pytest.fixture
    def mark(self, tmp_path: Path) -> str:
        return str(abs(hash(str(tmp_path))))

    @pytest.fixture
    def home(self, tmp_path: Path, mark: str) -> Path:
        home = tmp_path / "home"
        executable(home / "venv" / "bin" / "moto_server", "#!/bin/sh\nexec sleep 77\n")
        executable(home / "venv" / "bin" / "ndif", FAKE.format(python=sys.executable, mark=mark))
        (home / "installed.json").write_text(installation.manifest())
        return home

    def start(self, home: Path, *command: str) -> subprocess.Popen[str]:
        whole = [sys.executable, "-m", "analyses.real_ndif", str(home), "--wait", "30", "--", *command]
        return subprocess.Popen(
            whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
            preexec_fn=listen_to_interrupts,
        )  # fmt: skip

    def daemons(self, mark: str) -> int:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        return sum(f"3456.{mark}".encode() in line for line in lines)

    def gone(self, mark: str) -> bool:
        until = time.monotonic() + 10
        while (left := self.daemons(mark)) and time.monotonic() < until:
            time.sleep(0.05)
        return not left

    def test_a_command_is_run_and_everything_ends_with_it(self, home: Path, mark: str, tmp_path: Path) -> None:
        script = "curl -s $NDIF_HOST/status > status; curl -s $HF_ENDPOINT/api/models/xmi/organism > about; exit 7"
        script = f"cd {tmp_path}; echo $$ > pid; {script}"
        process = self.start(home, "sh", "-c", script)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 7, said
        assert "xmi/organism served at http://127.0.0.1:8001" in said
        assert model_key("xmi/organism", VLM) in json.loads((tmp_path / "status").read_text())["deployments"]
        assert json.loads((tmp_path / "about").read_text())["id"] == "xmi/organism"
        assert int((tmp_path / "pid").read_text()) < 1000  # it had processes of its own
        assert self.gone(mark)

    @pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
    def test_everything_ends_with_the_script(self, home: Path, mark: str, tmp_path: Path, how: str) -> None:
        script = f"trap 'echo told > {tmp_path}/told; exit' INT TERM; touch {tmp_path}/begun; sleep 60 & wait"
        process = self.start(home, "sh", "-c", script)
        until = time.monotonic() + 40
        while not (tmp_path / "begun").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert self.daemons(mark) == 1
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.send_signal(getattr(signal, how))
        process.communicate(timeout=30)
        assert process.returncode == {"Ctrl-C": 130, "SIGTERM": 143, "SIGKILL": -9}[how]
        assert self.gone(mark)
        assert (tmp_path / "told").exists()

    def test_a_server_that_ends_is_told_of(self, home: Path) -> None:
        executable(home / "venv" / "bin" / "ndif", "#!/bin/sh\necho 'redis: cannot run'; exit 1\n")
        process = self.start(home, "true")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "error: ndif ended with status 1.\nredis: cannot run" in said

    def test_a_command_that_is_not_there(self, home: Path, mark: str) -> None:
        process = self.start(home, "no-such-command")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "error: no-such-command cannot be run" in said
        assert self.gone(mark)


class TestDifferences:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., Path]:
        def made(name: str, rows: dict[str, list[Any]], vector: list[float]) -> Path:
            for part in ("tables", "vectors"):
                (tmp_path / name / part).mkdir(parents=True)
            pd.DataFrame(rows).to_csv(tmp_path / name / "tables" / "a.csv", index=False)
            save_file({"v": np.array(vector, dtype=np.float32)}, tmp_path / name / "vectors" / "b.safetensors")
            return tmp_path / name

        return made

    def test_by_file(self, run: Callable[..., Path]) -> None:
        one = run("one", {"source": ["x", None], "layer": [1, 2], "accuracy": [0.5, np.nan]}, [1, 2])
        other = run("other", {"source": ["x", None], "layer": [1, 2], "accuracy": [0.75, np.nan]}, [1, 2])
        found = differences(one, other)
        assert found.to_dict() == {"tables/a.csv": 0.25, "vectors/b.safetensors": 0.0}
        assert differences(one, one).max() == 0

    @pytest.mark.parametrize(
        "rows",
        [
            {"source": ["x", "z"], "accuracy": [0.5, 0.5]},
            {"source": ["x", "y"], "accuracy": [0.5, np.nan]},
            {"source": ["x"], "accuracy": [0.5]},
            {"source": ["x", "y"]},
        ],
        ids=["other text", "no number", "a row less", "a column less"],
    )
    def test_what_is_no_matter_of_numbers(self, run: Callable[..., Path], rows: dict[str, list[Any]]) -> None:
        one, other = run("one", {"source": ["x", "y"], "accuracy": [0.5, 0.5]}, [1]), run("other", rows, [1])
        assert differences(one, other)["tables/a.csv"] == differences(other, one)["tables/a.csv"] == np.inf

    def test_a_file_of_one_run_only(self, run: Callable[..., Path]) -> None:
        one, other = run("one", {"n": [1]}, [1]), run("other", {"n": [1]}, [1])
        (one / "tables" / "a.csv").unlink()
        assert differences(one, other).to_dict() == {"tables/a.csv": np.inf, "vectors/b.safetensors": 0.0}
