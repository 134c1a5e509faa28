"""What a host says and how it refuses: every failure is an error that says what to do, and none shows the API key."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console
from rich.traceback import Traceback

from tests.remote.loopback import EMBEDDED, KEY, Loopback
from tests.remote.meta import VLM, meta, on_meta, reading
from xmi.errors import RemoteError, XmiError
from xmi.remote import Host, model_key, preflight
from xmi.remote import host as host_module
from xmi.remote.host import Away, Refused
from xmi.remote.incoming import Deployment, Deployments
from xmi.remote.payload import build


@pytest.fixture
def host(server: Loopback) -> Iterator[Host]:
    made = Host(server.url, KEY)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(host_module.CONFIG.API, "APIKEY", None)


@pytest.fixture(scope="module")
def blob() -> bytes:
    return build(meta(), [reading()])


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def submit(host: Host, blob: bytes) -> tuple[Any, list[int]]:
    told: list[int] = []
    return host.submit(model_key(meta()), blob, on_sent=lambda: told.append(1), env=meta()._remoteable_get_env()), told


def seen(server: Loopback, what: str) -> int:
    return int(server.stats()["seen"].get(what, 0))


# What it says


def test_a_host_says_what_it_has(host: Host) -> None:
    assert host.reachable()
    assert host.env().packages["nnsight"]
    keys = [str(one.model_key) for one in (host.status().deployments or {}).values()]
    assert {json.loads(key.partition(":")[2])["repo_id"] for key in keys} == set(EMBEDDED)
    assert host.whoami().email == "tester@localhost"
    assert host.look("unknown") is None


def test_a_job_is_told_of_just_before_it_is_whole(server: Loopback, host: Host, blob: bytes) -> None:
    before = server.stats()["requests"]

    def refuse() -> None:
        raise XmiError("the disk is full")

    with pytest.raises(XmiError, match="the disk is full"):
        host.submit(model_key(meta()), blob, on_sent=refuse)
    assert server.stats()["requests"] == before  # what was not told of did not arrive
    answer, told = submit(host, blob)
    assert told == [1] and host.look(answer.id) is not None
    assert server.stats()["requests"] == before + 1
    assert server.stats()["jobs"][-1]["payload_bytes"] == len(blob)


def test_the_key_comes_from_where_nnsight_looks_for_it(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Host(server.url).has_key
    monkeypatch.setattr(host_module.CONFIG.API, "APIKEY", KEY)
    assert Host(server.url).whoami().email
    monkeypatch.setenv("NDIF_API_KEY", "another-key")
    assert Host(server.url).whoami().email is None
    assert Host(server.url, KEY).whoami().email


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("127.0.0.1:8000", "not the address of a host"),
        ("ftp://host", "not the address of a host"),
        ("http://host/?key=secret", "not the address of a host"),
        ("http://user:secret@host", "user name or password"),
        ("http://host:port", "not the address of a host"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, found: str) -> None:
    with pytest.raises(RemoteError, match=found) as caught:
        Host(url)
    assert "secret" not in str(caught.value)
    assert Host("https://api.ndif.us/").url == "https://api.ndif.us"


# How it refuses


@pytest.mark.parametrize(
    ("code", "advice", "no_job"),
    [
        (400, "versions", True),
        (401, "Check the API key", True),
        (403, "Check the API key", True),
        (404, "address of an NDIF host", True),
        (413, "fewer prompts", True),
        (429, "try again later", True),
        (500, "", False),
        (502, "", False),
        (503, "busy or restarting", True),
    ],
)
def test_a_refused_request_says_why_and_is_not_repeated(
    server: Loopback, host: Host, blob: bytes, code: int, advice: str, no_job: bool
) -> None:
    before = seen(server, "POST /request")
    server.faults(reject={"status": code, "times": 9, "detail": f"because of {code}"})
    with pytest.raises(Refused, match=rf"\(HTTP {code}\): because of {code}") as caught:
        submit(host, blob)
    assert advice in str(caught.value) and caught.value.no_job is no_job
    assert seen(server, "POST /request") == before + 1


def test_a_missing_key_is_asked_for(server: Loopback, blob: bytes) -> None:
    with pytest.raises(Refused, match=r"Missing API key.*There is no API key: set NDIF_API_KEY"):
        submit(Host(server.url), blob)


def test_questions_are_repeated_a_few_times(server: Loopback, host: Host, blob: bytes) -> None:
    answer, _ = submit(host, blob)
    server.faults(reject={"status": 503, "times": 3, "on": "/response"})
    assert host.look(answer.id) is not None
    server.faults(drop_reading=3)
    assert host.look(answer.id) is not None
    server.faults(reject={"status": 500, "times": 99, "on": "/env", "detail": "out of order"})
    with pytest.raises(Away, match="out of order"):
        host.env()
    server.faults(reject={"status": 403, "times": 99, "on": "/response"})
    before = seen(server, "GET /response")
    with pytest.raises(Refused, match="Check the API key"):
        host.look(answer.id)
    assert seen(server, "GET /response") == before + 1


@pytest.mark.parametrize("fault", ["drop", "drop_before"])
def test_a_broken_connection_is_not_used_again_for_a_job(server: Loopback, host: Host, blob: bytes, fault: str) -> None:
    before = seen(server, "POST /request")
    server.faults(**{fault: 9})
    told: list[int] = []
    with pytest.raises(Away, match="cannot be reached"):
        host.submit(model_key(meta()), blob, on_sent=lambda: told.append(1))
    assert told == [1] and seen(server, "POST /request") == before + 1


def test_a_host_that_is_not_there(blob: bytes) -> None:
    host = Host(f"http://127.0.0.1:{free_port()}", KEY)
    assert not host.reachable()
    told: list[int] = []
    with pytest.raises(Away, match="ConnectError"):
        host.submit("key", blob, on_sent=lambda: told.append(1))
    assert not told
    with pytest.raises(Away, match="Check the address"):
        host.status()


def test_a_connection_that_was_never_made_is_tried_again(
    server: Loopback, host: Host, blob: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = httpx.Client.send, []

    def send(self: httpx.Client, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        if request.method == "POST" and len(refused) < 2:
            refused.append(1)
            raise httpx.ConnectError("[Errno 111] Connection refused")
        return real(self, request, **kwargs)

    monkeypatch.setattr(httpx.Client, "send", send)
    answer, told = submit(host, blob)
    assert answer.id and told == [1] and len(refused) == 2


def test_what_is_no_ndif_host_is_recognised(host: Host, monkeypatch: pytest.MonkeyPatch, blob: bytes) -> None:
    def page(request: httpx.Request) -> httpx.Response:
        request.read()
        return httpx.Response(200, stream=httpx.ByteStream(b"<html>hello</html>"))

    real = httpx.Client.__init__

    def init(self: httpx.Client, **options: Any) -> None:
        real(self, **options, transport=httpx.MockTransport(page))

    monkeypatch.setattr(httpx.Client, "__init__", init)
    other = Host(host.url, KEY)
    with pytest.raises(RemoteError, match="does not answer as an NDIF host does"):
        other.env()
    with pytest.raises(RemoteError, match=r"does not answer as an NDIF host does.*hello"):
        submit(other, blob)


def test_results_are_fetched_from_web_addresses_only(host: Host) -> None:
    for wrong in ("file:///etc/passwd", "", "None", "/result/1"):
        with pytest.raises(RemoteError, match="no address"):
            host.fetch(wrong)
    with pytest.raises(Refused, match=r"HTTP 404.*about an hour"):
        host.fetch(f"{host.url}/result/unknown")


# The key is shown nowhere


def test_the_key_is_not_in_the_object(server: Loopback, host: Host) -> None:
    shown = [repr(host), str(host), repr(vars(host)), repr(vars(host._client)), repr(copy.copy(vars(host)))]
    assert not any(KEY in text for text in shown)
    stored = pickle.dumps(host)
    assert KEY.encode() not in stored
    again = pickle.loads(stored)
    assert again.url == host.url and not again.has_key


@pytest.mark.parametrize("fault", ["reject", "away", "drop"])
def test_the_key_is_in_no_error_log_or_traceback(
    server: Loopback, host: Host, blob: bytes, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    if fault == "reject":  # as NDIF words it
        server.faults(reject={"status": 400, "detail": f"Invalid API key format: '{KEY}'."})
    elif fault == "drop":
        server.faults(drop=1)
    else:
        host = Host(f"http://127.0.0.1:{free_port()}", KEY)
    with pytest.raises(RemoteError) as caught:
        submit(host, blob)
    error = caught.value
    plain = "".join(traceback.format_exception(error))
    console = Console(file=io.StringIO(), width=400)
    rich = Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, locals_max_string=10_000)
    console.print(rich)
    assert error.__cause__ is None and error.__context__ is None
    assert "submit" in plain and "blob" in console.file.getvalue()  # type: ignore[attr-defined]
    for text in (str(error), plain, console.file.getvalue(), caplog.text):  # type: ignore[attr-defined]
        assert KEY not in text
    assert fault != "reject" or "(API key)" in str(error)


def test_a_key_that_cannot_be_one_is_refused_unseen(server: Loopback) -> None:
    for wrong in ("two words", "line\nbreak", "clé-secrète"):
        with pytest.raises(RemoteError, match="not shown") as caught:
            Host(server.url, wrong)
        assert wrong not in str(caught.value)
    assert Host(server.url, f" {KEY}\n").whoami().email


# Preflight


def verdicts(found: Any) -> dict[str, str]:
    return {check.name: check.verdict for check in found.checks}


def test_preflight_of_a_host_that_is_ready(server: Loopback, host: Host) -> None:
    found = preflight(host, model_key(meta()), meta())
    assert found.ok and set(verdicts(found).values()) == {"ok"}
    assert found.model_key == model_key(meta())
    assert {"dtype": "float32", "device": "cpu", "attention": "sdpa"}.items() <= found.facts.items()
    assert {"python", "torch", "nnsight", "transformers"} <= set(found.facts)
    assert len(found.lines()) == len(found.checks) and KEY not in "\n".join(found.lines())
    assert on_meta()


def test_preflight_knows_a_model_by_its_hub_id(host: Host) -> None:
    found = preflight(host, VLM)
    assert found.ok and found.model_key == model_key(meta()) and "smoke trace" not in verdicts(found)


def test_preflight_names_close_models_and_other_keys(server: Loopback, host: Host) -> None:
    before = server.stats()["requests"]
    found = preflight(host, "xmi/organisms", meta())
    assert not found.ok and found.model_key is None
    assert any("close ones are xmi/organism" in line for line in found.lines())
    other = model_key(meta()).replace("null", '"main"').replace("Transformers", "Language")
    found = preflight(host, other, meta())
    (line,) = (line for line in found.lines() if "another key" in line)
    assert "revision None instead of 'main'" in line and "LanguageModel" in line and "HOT RUNNING" in line
    assert server.stats()["requests"] == before  # a model that is not there is not asked to run


def test_preflight_of_a_model_that_sleeps(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    key = model_key(meta())
    sleeping = Deployments(deployments={"x": Deployment(model_key=key, deployment_level="COLD")})
    monkeypatch.setattr(host, "status", lambda: sleeping)
    found = preflight(host, key)
    assert found.ok and verdicts(found)["model"] == "note" and any("COLD" in line for line in found.lines())


@pytest.mark.parametrize(
    ("claims", "wrong", "note"),
    [
        ({"nnsight": "0.7.0"}, ["nnsight"], []),
        ({"nnsight": "0.8.99"}, [], ["nnsight"]),
        ({"transformers": "4.57.1"}, ["transformers"], []),
        ({"torch": "2.4.0", "python": "3.13.1 (main)"}, [], ["python", "torch"]),
    ],
)
def test_preflight_compares_versions(
    server: Loopback, host: Host, claims: dict[str, str], wrong: list[str], note: list[str]
) -> None:
    server.faults(versions=claims)
    found = preflight(host, VLM)
    by = verdicts(found)
    assert sorted(name for name in by if by[name] == "wrong") == wrong
    assert sorted(name for name in by if by[name] == "note") == note
    assert found.ok is (not wrong)
    for name, version in claims.items():
        assert found.facts[name] == version.split()[0]


def test_preflight_of_wrong_keys_and_absent_hosts(server: Loopback) -> None:
    found = preflight(Host(server.url), VLM, meta())
    assert verdicts(found)["API key"] == "wrong" and verdicts(found)["smoke trace"] == "wrong" and not found.ok
    found = preflight(Host(server.url, "another-key"), VLM)
    assert verdicts(found)["API key"] == "wrong"
    found = preflight(Host(f"http://127.0.0.1:{free_port()}", KEY), VLM, meta())
    assert list(verdicts(found).items()) == [("host", "wrong")] and not found.ok


def test_preflight_goes_on_when_a_host_does_not_say(server: Loopback, host: Host) -> None:
    server.faults(reject={"status": 503, "times": 99, "on": "/env"})
    found = preflight(host, VLM)
    assert verdicts(found)["versions"] == "note" and verdicts(found)["model"] == "ok"
    server.faults(error=f"no memory left for {KEY}")
    found = preflight(host, VLM, meta())
    assert verdicts(found)["smoke trace"] == "wrong"
    assert "no memory left for (API key)" in "\n".join(found.lines())
    assert KEY not in json.dumps(found.lines())
