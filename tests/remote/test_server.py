"""The loopback server against nnsight's own client: it speaks the protocol, fails on request, and forgets no job."""

from __future__ import annotations

import asyncio
import importlib
import json
import linecache
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nnsight
import pytest
import torch
import websocket
from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import AsyncRemoteBackend, RemoteBackend, RemoteError
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.schema.config import CONFIG
from nnsight.tracing.globals import BLOCKS, SOURCES
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from tests.remote.loopback import EMBEDDED, KEY, Loopback
from tests.remote.server import Hide

VLM, LLM = EMBEDDED
SECONDS = 60.0  # that a test waits for a job at most


def client(repo_id: str) -> Any:
    """nnsight's model without weights, named as the server knows it."""
    folder = str(EMBEDDED[repo_id])
    _ID_CACHE[folder] = repo_id  # a folder's id cannot be asked of the Hub
    if repo_id == VLM:
        return TransformersModel(folder, task="image-text-to-text", processor=AutoProcessor.from_pretrained(folder))
    return TransformersModel(folder, task="text-generation", tokenizer=AutoTokenizer.from_pretrained(folder))


def on_meta(model: Any) -> bool:
    return all(parameter.is_meta for parameter in model._module.parameters())


@pytest.fixture(scope="module")
def vlm() -> Iterator[Any]:
    model = client(VLM)
    yield model
    assert on_meta(model), "a test loaded the weights on the client's side"


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    model = client(LLM)
    yield model
    assert on_meta(model), "a test loaded the weights on the client's side"


@pytest.fixture(scope="module")
def inputs(vlm: Any) -> dict[str, torch.Tensor]:
    """Two prompts of different lengths with a picture each."""
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    texts = ["<image>France : Paris", "<image> Italy"]
    return dict(vlm.processor(text=texts, images=pictures, return_tensors="pt", padding=True))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)


def backend(model: Any, server: Loopback, kind: type[RemoteBackend] = RemoteBackend, **options: Any) -> Any:
    """Where a trace of the model goes."""
    settings = {"host": server.url, "api_key": KEY, "env": model._remoteable_get_env(), **options}
    return kind(settings.pop("model_key", model.to_model_key()), **settings)


def submit(model: Any, server: Loopback, number: int = 1, **options: Any) -> str:
    """Leaves a job that gives back its number; returns the job's id."""
    to = backend(model, server, blocking=False, **options)
    with model.session(backend=to):
        number = nnsight.save(number + 0)
    return str(to.job_id)


def poll(server: Loopback, name: str) -> dict[str, Any]:
    """Waits for a job's result as nnsight's client fetches it."""
    asking = RemoteBackend("", host=server.url, api_key=KEY, blocking=False, job_id=name)
    until = time.monotonic() + SECONDS
    while (result := asking()) is None:
        assert time.monotonic() < until, f"{name} is still {asking.status}"
        time.sleep(0.02)
    return dict(result)


def status(server: Loopback, name: str) -> str:
    return str(httpx.get(f"{server.url}/response/{name}").json()["status"])


def wait_for(server: Loopback, name: str, wanted: str) -> None:
    until = time.monotonic() + SECONDS
    while status(server, name) != wanted:
        assert time.monotonic() < until, f"{name} is {status(server, name)}, not {wanted}"
        time.sleep(0.02)


def job(server: Loopback, name: str) -> dict[str, Any]:
    return next(dict(one) for one in server.stats()["jobs"] if one["id"] == name)


# What a client gets


def test_a_blocking_trace_with_pictures_gives_the_plain_forward(
    server: Loopback, vlm: Any, inputs: dict[str, torch.Tensor]
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(EMBEDDED[VLM], dtype=torch.float32)
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True)
    with vlm.trace(**inputs, backend=backend(vlm, server)):
        hidden = vlm.model.language_model.layers[1].output[:, -1].save()
        logits = vlm.output.logits.save()
    torch.testing.assert_close(logits, expected.logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(hidden, expected.hidden_states[2][:, -1], atol=1e-6, rtol=1e-6)


def test_a_text_model_is_served_beside_it(server: Loopback, llm: Any) -> None:
    tokens = llm.tokenizer("France : Paris", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED[LLM], dtype=torch.float32)
    with torch.no_grad():
        expected = model(**tokens).logits
    with llm.trace(**tokens, backend=backend(llm, server)):
        logits = llm.output.logits.save()
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)


def test_generation_is_served(server: Loopback, llm: Any) -> None:
    tokens = llm.tokenizer("France : Paris", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED[LLM], dtype=torch.float32)
    expected = model.generate(**tokens, max_new_tokens=3, do_sample=False)
    with llm.generate(**tokens, max_new_tokens=3, do_sample=False, backend=backend(llm, server)) as tracer:
        ids = tracer.result.save()
    assert ids.tolist() == expected.tolist()


def test_a_session_is_one_request(server: Loopback, vlm: Any, inputs: dict[str, torch.Tensor]) -> None:
    before = server.stats()["requests"]
    with vlm.session(backend=backend(vlm, server)):
        norms = nnsight.save([])
        for layer in range(3):
            with vlm.trace(**inputs):
                norms.append(vlm.model.language_model.layers[layer].output.norm().item())
    assert len(norms) == 3 and len(set(norms)) == 3
    assert server.stats()["requests"] == before + 1


def test_a_job_is_known_by_its_id_before_it_ends(server: Loopback, llm: Any) -> None:
    server.faults(delay=10 * SECONDS)
    first, second = submit(llm, server, 1), submit(llm, server, 2)
    wait_for(server, first, "DISPATCHED")
    assert status(server, second) == "QUEUED"
    assert job(server, first)["runs"] == 0
    server.faults()  # ends the delay
    assert [poll(server, second)["number"], poll(server, first)["number"]] == [2, 1]
    assert job(server, first)["runs"] == job(server, second)["runs"] == 1


def test_statuses_come_in_order_with_what_the_job_prints(server: Loopback, llm: Any) -> None:
    to = backend(llm, server, AsyncRemoteBackend)
    with llm.session(backend=to):
        print("half way")
        number = nnsight.save(7)  # noqa: F841

    async def listen() -> list[Any]:
        return [update async for update in to]

    *updates, result = asyncio.run(listen())
    assert [u.status.value for u in updates] == ["QUEUED", "DISPATCHED", "RUNNING", "LOG", "COMPLETED"]
    assert updates[3].description == "half way"
    assert result == {"number": 7}
    assert updates[-1].meta["runtime"] > 0
    assert httpx.get(f"{server.url}/response/{updates[0].id}").status_code == 404  # nobody keeps what is listened to


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_results_come_inline_or_by_url_compressed_or_not(
    server: Loopback, llm: Any, monkeypatch: pytest.MonkeyPatch, size: int, compress: bool
) -> None:
    monkeypatch.setattr(CONFIG.API, "COMPRESS", compress)
    before = server.stats()["seen"].get("GET /result", 0)
    with llm.session(backend=backend(llm, server)):
        noise = nnsight.save(torch.randn(size, generator=torch.Generator().manual_seed(0)))
        zeros = nnsight.save(torch.zeros(10_000))
    assert torch.equal(noise, torch.randn(size, generator=torch.Generator().manual_seed(0)))
    assert server.stats()["seen"].get("GET /result", 0) - before == (size > 1000)
    beyond = server.stats()["jobs"][-1]["result_bytes"] - 4 * size
    assert zeros.shape == (10_000,) and (beyond < 10_000) == compress


def test_a_client_that_leaves_is_let_go(server: Loopback) -> None:
    listening = websocket.create_connection(f"{server.url.replace('http', 'ws')}/subscribe", timeout=SECONDS)
    assert json.loads(listening.recv())["session_id"]
    listening.send_close()
    code, reason = listening.recv_data(control_frame=True)
    assert code == websocket.ABNF.OPCODE_CLOSE and int.from_bytes(reason, "big") == 1000
    listening.shutdown()


# What the server says of itself


def test_nnsights_own_questions_are_answered(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, vlm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CONFIG.API, "HOST", server.url)
    monkeypatch.setattr("nnsight.ndif._REMOTE_ENV", None)
    deployed = nnsight.ndif.status()
    assert set(deployed) == {VLM, LLM}
    assert deployed[VLM]["state"] == "RUNNING" and deployed[LLM]["task"] == "text-generation"
    raw = nnsight.ndif.status(raw=True)["deployments"]
    assert vlm.to_model_key() in {one["model_key"] for one in raw.values()}
    assert nnsight.ndif.whoami(KEY)["email"] and nnsight.ndif.whoami("another")["email"] is None
    assert not nnsight.ndif.compare().critical_mismatches
    assert httpx.get(f"{server.url}/ping").json() == "pong"
    assert httpx.get(f"{server.url}/connected").json() == {"status": "connected"}
    assert httpx.get(f"{server.url}/nothing").status_code == 404
    formless = httpx.post(f"{server.url}/request", headers={"ndif-api-key": KEY}, data={"data": "{}"})
    assert formless.status_code == 422

    server.faults(versions={"nnsight": "0.7.0", "python": "3.9.1"})
    nnsight.ndif.get_remote_env(force_refresh=True)
    found = nnsight.ndif.compare()
    assert found.critical_mismatches["nnsight"]["remote"] == "0.7.0"
    assert found.remote_python == "3.9.1" and set(found.critical_mismatches) == {"nnsight"}


def test_the_package_under_test_does_not_exist_there(server: Loopback, llm: Any) -> None:
    assert "xmi" not in httpx.get(f"{server.url}/env").json()["packages"]
    with pytest.raises(RemoteError, match="No module named 'xmi'"), llm.session(backend=backend(llm, server)):
        import xmi

        name = nnsight.save(xmi.__name__)  # noqa: F841
    with pytest.raises(ModuleNotFoundError, match="yaml"):  # even an installed one
        Hide(["yaml"]).find_spec("yaml.nodes")
    Hide(["yaml"]).find_spec("yamllint")


def test_an_installed_helper_travels_only_if_it_is_registered(
    server: Loopback, llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnsight.ndif.pull_env()  # it registers what it finds beside the tests by itself, and once
    (tmp_path / "installed_helper.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    double = importlib.import_module("installed_helper").double
    with (
        pytest.raises(RemoteError, match="No module named 'installed_helper'"),
        llm.session(backend=backend(llm, server)),
    ):
        four = nnsight.save(double(2))
    nnsight.register("installed_helper")
    try:
        with llm.session(backend=backend(llm, server)):
            four = nnsight.save(double(2))
    finally:
        _PICKLE_BY_VALUE_MODULES.discard("installed_helper")
        sys.modules.pop("installed_helper")
    assert four == 4


def test_sources_of_one_job_are_not_the_next_ones(
    server: Loopback, llm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients whose files have the same name and their blocks on the same lines."""
    text = (
        "import nnsight\n\n\ndef run(model, to, tokens):\n    with model.session(backend=to):\n"
        "        with model.trace(**tokens):\n            got = nnsight.save({answer})\n    return got\n"
    )
    tokens, found = dict(llm.tokenizer("a", return_tensors="pt")), []
    for answer in (1, 2):
        path = tmp_path / "study.py"
        path.write_text(text.format(answer=answer))
        for cache in (SOURCES, BLOCKS, linecache.cache):  # the second client is a new process
            monkeypatch.setattr(sys, "dont_write_bytecode", True)
            for key in [k for k in cache if str(path) in str(k)]:
                del cache[key]
        namespace: dict[str, Any] = {"__name__": "study"}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        found.append(namespace["run"](llm, backend(llm, server), tokens))
    assert found == [1, 2]


def test_another_key_of_the_same_model_is_another_model(server: Loopback, llm: Any) -> None:
    other = llm.to_model_key().replace("null", '"main"')
    assert other != llm.to_model_key()
    name = submit(llm, server, model_key=other)
    with pytest.raises(RemoteError, match="is not deployed"):
        poll(server, name)


# What goes wrong when a test wants it to


def test_the_api_key_is_asked_for_and_kept_nowhere(server: Loopback, llm: Any) -> None:
    before = server.stats()["requests"]
    with pytest.raises(RemoteError, match="Missing API key"):
        submit(llm, server, api_key=None)
    with pytest.raises(RemoteError, match="Invalid API key"):
        submit(llm, server, api_key="another")
    assert server.stats()["requests"] == before
    poll(server, submit(llm, server))
    assert server.stats()["headers"]["ndif-api-key"] == "present"
    assert KEY not in json.dumps(server.stats())


@pytest.mark.parametrize("code", [400, 401, 403, 404, 500, 503])
def test_a_refused_request_is_no_job(server: Loopback, llm: Any, code: int) -> None:
    before = server.stats()
    server.faults(reject={"status": code, "times": 2, "detail": f"not today ({code})"})
    for _ in range(2):
        with pytest.raises(RemoteError, match=rf"not today \({code}\)") as caught:
            submit(llm, server)
        assert isinstance(caught.value.__cause__, httpx.HTTPStatusError)
        assert caught.value.__cause__.response.status_code == code
    after = server.stats()
    assert after["requests"] == before["requests"]
    assert after["seen"]["POST /request"] == before["seen"].get("POST /request", 0) + 2
    assert poll(server, submit(llm, server)) == {"number": 1}


def test_polling_is_refused_where_a_test_says_so(server: Loopback, llm: Any) -> None:
    name = submit(llm, server)
    wait_for(server, name, "COMPLETED")
    server.faults(reject={"status": 503, "on": "/response"})
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        poll(server, name)
    assert poll(server, name) == {"number": 1}


def test_a_failing_job_tells_the_end_of_its_traceback(server: Loopback, llm: Any) -> None:
    to = backend(llm, server)
    with pytest.raises(RemoteError, match="IndexError"), llm.session(backend=to):
        number = nnsight.save([][3])  # noqa: F841
    assert "runtime" in to.meta
    tokens = llm.tokenizer("France : Paris", return_tensors="pt")
    with (
        pytest.raises(RemoteError, match="out of bounds"),
        llm.trace(**tokens, backend=backend(llm, server)),
    ):  # in the middle of a forward
        llm.model.layers[0].output[:, 99] = 0
    with llm.trace(**tokens, backend=backend(llm, server)):
        logits = llm.output.logits.save()
    assert logits.isfinite().all()
    server.faults(error="CUDA out of memory")
    with pytest.raises(RemoteError, match="CUDA out of memory"):
        poll(server, submit(llm, server))
    last = server.stats()["jobs"][-1]
    assert last["status"] == "ERROR" and last["runs"] == 0
    assert poll(server, submit(llm, server)) == {"number": 1}  # once is once, and a failed job breaks no other


@pytest.mark.parametrize("code", [403, 404])
def test_an_expired_result_cannot_be_fetched(server: Loopback, llm: Any, code: int) -> None:
    name = submit(llm, server)
    wait_for(server, name, "COMPLETED")
    server.faults(expire=code)
    with pytest.raises(httpx.HTTPStatusError, match=str(code)):
        poll(server, name)
    server.faults()
    assert poll(server, name) == {"number": 1}


def test_a_connection_may_break_before_or_after_a_job_is_accepted(server: Loopback, llm: Any) -> None:
    before = server.stats()
    server.faults(drop_before=1)
    with pytest.raises(RemoteError, match="Failed to send request"):
        submit(llm, server)
    assert server.stats()["requests"] == before["requests"]
    server.faults(drop=1)
    with pytest.raises(RemoteError, match="Failed to send request"):
        submit(llm, server)
    after = server.stats()
    assert after["requests"] == before["requests"] + 1
    lost = after["jobs"][-1]["id"]
    server.faults(drop_reading=1)
    with pytest.raises(httpx.RemoteProtocolError):
        poll(server, lost)
    assert poll(server, lost) == {"number": 1}


def test_an_unknown_fault_is_refused(server: Loopback) -> None:
    with pytest.raises(AssertionError, match="dellay"):
        server.faults(dellay=1)


# What outlives the process


@pytest.mark.nightly
def test_a_killed_server_comes_back_with_its_results_and_its_queue(llm: Any, tmp_path: Path) -> None:
    state, mark = tmp_path / "state", tmp_path / "mark"
    models = {LLM: EMBEDDED[LLM]}
    with Loopback(models, state=state, dtype="bfloat16", api_key=None, min_nnsight="0.8", hide=("plotly",)) as server:
        assert "plotly" not in httpx.get(f"{server.url}/env").json()["packages"]
        old = httpx.post(f"{server.url}/request", headers={"nnsight-version": "0.7.0"})
        assert old.status_code == 400 and "0.8" in old.json()["detail"]

        done = submit(llm, server, 1)
        wait_for(server, done, "COMPLETED")
        to = backend(llm, server, blocking=False)
        with llm.session(backend=to):
            if not mark.exists():  # in the first run, which is killed
                mark.touch()
                time.sleep(300)
            dtype = nnsight.save(str(next(llm._module.parameters()).dtype))  # noqa: F841
        broken = str(to.job_id)
        waiting = submit(llm, server, 3)
        wait_for(server, broken, "RUNNING")
        assert status(server, waiting) == "QUEUED"

        pid, port, hashes = server.pid, server.port, [one["sha256"] for one in server.stats()["jobs"]]
        server.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)
        server.start()
        assert server.port == port and server.pid != pid
        assert poll(server, waiting) == {"number": 3}
        assert poll(server, broken) == {"dtype": "torch.bfloat16"}
        assert poll(server, done) == {"number": 1}
        stats = server.stats()
        assert [one["runs"] for one in stats["jobs"]] == [1, 2, 1]
        assert [one["sha256"] for one in stats["jobs"]] == hashes
        assert (stats["requests"], stats["executed"]) == (3, 4)
