"""A host is another machine, run by others: whatever it sends ends in a checked value or in a `RemoteError`."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import os
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import xmi
from tests.night import times
from tests.remote.hostile import Hostile, answer, hostile, slowly
from tests.remote.meta import meta, reading
from xmi.errors import JobError, RemoteError
from xmi.kernels import (
    cache_kernel,
    decode_kernel,
    lens_kernel,
    next_token_kernel,
    proof_kernel,
    residual_kernel,
    sweep_kernel,
    trajectory_kernel,
)
from xmi.remote import Host, Jobs, incoming, model_key, preflight
from xmi.remote import host as host_module
from xmi.remote.expected import check, expected, largest, sizes
from xmi.remote.incoming import Deployments, Environment, Facts, Identity, Reply, parse, read, unpack
from xmi.remote.tracing import SafeBackend

KEY = "hostile-key/0123+456789"
JOB = {"id": "job-1", "status": "RUNNING", "description": "", "data": None, "meta": {"runtime": 1.5}}
FACTS = {
    "dtype": "float32", "device": "cuda:0", "accelerator": "H100", "attention": "sdpa", "torch": "2.13.0+cpu",
    "transformers": "5.23.0", "finite": True,
}  # fmt: skip
RIGHT: dict[Any, dict[str, Any]] = {
    Environment: {"python_version": "3.11.7 (main)", "packages": {"torch": "2.13.0+cu1", "nnsight": "0.8.1"}},
    Deployments: {"deployments": {"a:b": {"model_key": "c:{}", "deployment_level": "HOT", "application_state": "UP"}}},
    Identity: {"email": "a@b"},
    Reply: JOB,
    Facts: FACTS,
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.delenv("NDIF_API_KEY", raising=False)


@pytest.fixture
def evil() -> Iterator[Hostile]:
    with hostile() as made:
        yield made


def jobs(evil: Hostile, folder: Path, **options: Any) -> Jobs:
    return Jobs(Host(evil.url, KEY), model_key(meta()), meta(), folder, **options)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def completed(evil: Hostile, result: bytes, **changes: Any) -> None:
    """Every job has ended with this result."""

    def script(path: str, headers: dict[str, str]) -> bytes:
        if path.startswith("/result"):
            return answer(result)
        done = {"status": "COMPLETED", "data": f"{evil.url}/result"} if path.startswith("/response") else {}
        return answer({**JOB, **done, **changes})

    evil.script = script


# Size and time


SLOW = {
    "headers": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n"], slowly(b"X-Header: 1\r\n")),
    "body": lambda: itertools.chain([answer(b"", length=10**9)], slowly(b" ")),
    "chunks": lambda: itertools.chain(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], slowly(b"1\r\n \r\n", 0.001)
    ),
    "continue": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "silence": lambda: (time.sleep(60) or b"" for _ in range(1)),
}


@pytest.mark.fault("E7")
@pytest.mark.parametrize("kind", SLOW)
def test_an_endless_answer_ends(evil: Hostile, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    evil.script = lambda path, headers: SLOW[kind]()
    monkeypatch.setattr(incoming, "ANSWER_SECONDS", 0.3)
    host, begun = Host(evil.url, KEY), time.monotonic()
    with pytest.raises(RemoteError, match=evil.url):
        host.env()
    with pytest.raises(RemoteError, match=evil.url):
        host.fetch(f"{evil.url}/result", 10**9, 0.3)
    assert time.monotonic() - begun < 3


@pytest.mark.fault("E7")
def test_sending_a_job_ends(evil: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    evil.script = lambda path, headers: SLOW["headers"]()
    monkeypatch.setattr(host_module, "POST_SECONDS", 0.3)
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="ReadTimeout"):
        Host(evil.url, KEY).submit("key", b"blob", on_sent=lambda: None)
    assert time.monotonic() - begun < 3


@pytest.mark.fault("E7")
@pytest.mark.parametrize("declared", [None, 10, 10**12])
def test_a_body_is_counted_whatever_was_declared(
    evil: Hostile, monkeypatch: pytest.MonkeyPatch, declared: int | None
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + (
        b"Transfer-Encoding: chunked" if declared is None else b"Content-Length: %d" % declared
    )
    piece = b"186a0\r\n" + b" " * 100_000 + b"\r\n" if declared is None else b" " * 100_000
    sent = []

    def script(path: str, headers: dict[str, str]) -> Iterator[bytes]:
        yield head + b"\r\n\r\n"
        for _ in range(1000):
            sent.append(1)
            yield piece

    evil.script = script
    monkeypatch.setattr(incoming, "ANSWER_BYTES", 10**6)
    with pytest.raises(RemoteError, match="JSON" if declared == 10 else "larger than 1.0 MB"):
        Host(evil.url, KEY).status()
    with pytest.raises(RemoteError, match="cannot be read" if declared == 10 else "larger than 1.0 MB"):
        unpack(Host(evil.url, KEY).fetch(f"{evil.url}/result", 10**6))
    assert len(sent) < 200


@pytest.mark.fault("E7")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br", "gzip, gzip"])
def test_an_answer_that_was_compressed_unasked_is_not_unpacked(evil: Hostile, encoding: str) -> None:
    def script(path: str, headers: dict[str, str]) -> bytes:
        assert headers["accept-encoding"] == "identity"
        return answer(gzip.compress(b" " * 10**7), headers=[f"Content-Encoding: {encoding}"])

    evil.script = script
    with pytest.raises(RemoteError, match="compressed"):
        Host(evil.url, KEY).env()


def zipped(compression: int, **parts: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value, value]
    return value


def _chain(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _twice(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", bytes(12))
    return buffer.getvalue()


BOMBS: dict[str, Any] = {
    "zstd": lambda: zstandard.ZstdCompressor(19).compress(bytes(1_400_000_000 // 10)),
    "archive": lambda: zipped(zipfile.ZIP_DEFLATED, **{"data.pkl": bytes(10**8), "version": b"3"}),
    "an archive that lies of its sizes": lambda: zipped(zipfile.ZIP_BZIP2, a=bytes(10**8)).replace(
        (10**8).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    ),
    "zstd of an archive": lambda: zstandard.compress(saved({"results": [torch.zeros(10**8 // 4)]})),
    "repeated rows": lambda: saved({"results": [torch.zeros(1).expand(10**12)]}),
    "many views": lambda: saved({"results": [torch.zeros(10**6).view(-1)[:] for _ in range(1)] * 1000}),
    "lists of one list": lambda: saved({"results": _nested(30)}),
    "depth": lambda: saved({"results": _chain(300)}),
    "a long integer": lambda: saved({"results": [2**5000]}),
    "two parts of one name": lambda: _twice(saved({"results": [torch.zeros(3)]})),
}


@pytest.mark.fault("E7")
@pytest.mark.parametrize("kind", BOMBS)
def test_a_result_takes_no_more_than_was_asked_for(kind: str) -> None:
    content, begun = BOMBS[kind](), time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(RemoteError, match="cannot be read as tensors and numbers"):
            unpack(content, 5 * 10**6)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 10 and peak < 30 * 10**6


@pytest.mark.fault("E7")
def test_the_bound_follows_from_what_was_asked(evil: Hostile, tmp_path: Path) -> None:
    wanted = expected([reading(rows=2)])
    most = largest(list(wanted), sizes(meta()))
    assert most is not None and most < 100_000
    completed(evil, zstandard.compress(saved({"results": [torch.zeros(10**7)]})))
    with pytest.raises(RemoteError, match=r"cell: .*larger than 1\.\d MB, which is more than was asked for"):
        jobs(evil, tmp_path).run([reading(rows=2)], "cell")
    completed(evil, saved({"results": [torch.zeros(10**7)]}))
    with pytest.raises(RemoteError, match=r"cell: .*larger than 1\.\d MB, which is more than was asked for"):
        jobs(evil, tmp_path).run([reading(rows=2)], "cell")


def test_the_bound_of_other_results_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved({"x": torch.zeros(1000)})
    assert set(unpack(content)) == {"x"}
    monkeypatch.setenv("XMI_RESULT_BYTES", "3000")
    with pytest.raises(RemoteError, match=r"larger than 0\.0 MB"):
        unpack(content)
    for wrong in ("many", "-1", "1e9", "٣"):
        monkeypatch.setenv("XMI_RESULT_BYTES", wrong)
        with pytest.raises(RemoteError, match="XMI_RESULT_BYTES must be a number of bytes"):
            unpack(content)


# Fields


NASTY = ["", "\x1b[2J", "a\nb", "\u202eabc", "../../admin", "http://evil/", "\ud800", KEY, "x" * 5000, f"<{KEY}>", "\0"]
words = st.text(max_size=20) | st.sampled_from(NASTY)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(texts, (*value, *value.values())))
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(texts, value))


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested dicts, from the whole to the parts."""
    yield ()
    if isinstance(value, dict):
        for name, part in value.items():
            yield from ((name, *rest) for rest in places(part))


def with_other(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    if not place:
        return other
    return {**value, place[0]: with_other(value[place[0]], place[1:], other)}


FIELDS = [(kind, place) for kind, right in RIGHT.items() for place in places(right)]
CLEAN = Host("http://h", KEY).clean


@pytest.mark.fault("E8")
@settings(max_examples=times(300), deadline=None)
@given(field=st.sampled_from(FIELDS), value=values)
@example(field=(Environment, ("packages",)), value={"torch": KEY})
@example(field=(Reply, ("meta",)), value={KEY: [{"x": f"{KEY}\x1b[0m"}]})
@example(field=(Reply, ("description",)), value=KEY * 1000)
@example(field=(Deployments, ("deployments",)), value={f"{KEY}\x07": {}})
def test_a_field_is_what_it_should_be_or_refused(field: tuple[Any, tuple[Any, ...]], value: Any) -> None:
    kind, place = field
    try:
        found = read(kind, with_other(RIGHT[kind], place, value), "http://h/path", CLEAN)
    except RemoteError as error:
        told = [str(error)]
        assert "http://h/path" in told[0] and len(told[0]) < 1000
    else:
        told = list(texts(found.model_dump(mode="json")))
        found.model_dump_json()
    for text in told:
        assert KEY not in text
        assert all(character.isprintable() or character in "\n\t" for character in text)
        text.encode()


@pytest.mark.parametrize(("kind", "right"), RIGHT.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_right_answers_are_taken(kind: Any, right: dict[str, Any]) -> None:
    found = read(kind, {**right, "more": 1}, "h", CLEAN)
    kept = {**found.model_dump(mode="json")}
    assert kept == {**right, **({"python_version": "3.11.7"} if kind is Environment else {})}


WRONG_JSON = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "forty levels": b"[" * 40 + b"]" * 40,
    "NaN": b'{"python_version": NaN}',
    "infinity": b'{"python_version": -Infinity}',
    "overflow": b'{"python_version": 1e999}',
    "a long integer": b'{"python_version": ' + b"9" * 100_000 + b"}",
    "a name twice": b'{"python_version": "1", "python_version": "2"}',
    "latin-1": '{"python_version": "é"}'.encode("latin-1"),
    "utf-16": '{"python_version": "3"}'.encode("utf-16"),
    "nothing": b"",
    "a list": b"[]",
    "a string": b'"hello"',
    "a byte": b"\xff",
    "cut short": b'{"python_version": "3',
}


@pytest.mark.fault("E8")
@pytest.mark.parametrize("kind", WRONG_JSON)
def test_what_is_not_plain_json_is_refused(evil: Hostile, kind: str, tmp_path: Path) -> None:
    evil.script = lambda path, headers: answer(
        WRONG_JSON[kind], headers=["Content-Type: application/json; charset=unicode_escape"]
    )
    host = Host(evil.url, KEY)
    for ask, path in (
        (host.env, "/env"),
        (host.status, "/status"),
        (host.whoami, "/whoami"),
        (lambda: host.look("a"), "/response/a"),
    ):
        with pytest.raises(RemoteError, match=f"{evil.url}{path}"):
            ask()
    with pytest.raises(RemoteError, match=rf"cell: {evil.url}/request .*unknown"):
        jobs(evil, tmp_path).run([reading()], "cell")
    evil.script = lambda path, headers: answer(WRONG_JSON[kind], status="500 No")
    with pytest.raises(RemoteError, match=r"HTTP 500"):
        host.env()


def test_json_is_shallow() -> None:
    assert parse(b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "h")
    with pytest.raises(RemoteError, match="h cannot be read as JSON: it nests too deeply"):
        parse(WRONG_JSON["forty levels"], "h")


@settings(max_examples=times(100), deadline=None)
@given(content=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_refused(content: bytes) -> None:
    try:
        parse(content, "http://h")
    except RemoteError as error:
        assert "http://h" in str(error)


IDS = ["../../admin", "/admin", "http://evil/x", "//evil/x", "a/b", "a?b", "a#b", "%2e%2e", "a b", "", ".", "..", "a.b",
       "a\r\nX: 1", "a" * 200, "ä", "a\n", 5, None, ["a"], KEY]  # fmt: skip


@pytest.mark.fault("E8")
@pytest.mark.parametrize("wrong", IDS, ids=repr)
def test_a_jobs_id_is_never_a_path(evil: Hostile, tmp_path: Path, wrong: Any) -> None:
    evil.script = lambda path, headers: answer({**JOB, "id": wrong})
    with pytest.raises(RemoteError, match=rf"{evil.url}/request .* id: ") as caught:
        jobs(evil, tmp_path).run([reading()], "cell")
    assert KEY not in str(caught.value)
    assert [path for path, _ in evil.asked] == ["/request"]
    with pytest.raises(RemoteError, match="cannot be the id of a job"):
        Host(evil.url, KEY).look(wrong)
    assert len(evil.asked) == 1
    evil.script = lambda path, headers: answer({**JOB, "id": "ok" if path == "/request" else wrong})
    with pytest.raises(RemoteError, match=r" id: "):
        Host(evil.url, KEY).look("ok")


@pytest.mark.fault("E8")
def test_an_answer_about_another_job_is_refused(evil: Hostile, tmp_path: Path) -> None:
    evil.script = lambda path, headers: answer({**JOB, "id": "mine" if path == "/request" else "yours"})
    with pytest.raises(RemoteError, match="was asked for job mine and answers for another one, yours"):
        jobs(evil, tmp_path).run([reading()], "cell")


@pytest.mark.fault("E8")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_the_configured_host_only(evil: Hostile, tmp_path: Path, status: int) -> None:
    with hostile() as other:
        elsewhere = answer({}, status=f"{status} Moved", headers=[f"Location: {other.url}/env"])
        evil.script = lambda path, headers: elsewhere
        for ask in (Host(evil.url, KEY).env, lambda: jobs(evil, tmp_path).run([reading()], "cell")):
            with pytest.raises(RemoteError, match=f"HTTP {status}"):
                ask()
        completed(evil, b"", data=f"{other.url}/result")
        with pytest.raises(RemoteError):
            jobs(evil, tmp_path).run([reading()], "cell")
        assert {path for path, _ in other.asked} == {"/result"} and {key for _, key in other.asked} == {None}
    assert KEY in {key for _, key in evil.asked}


def test_results_are_fetched_from_where_they_may_be() -> None:
    far = Host("https://ndif.example", KEY)
    for inside in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1", "192.168.1.1", "0.0.0.0"):
        with pytest.raises(RemoteError, match="own network"):
            far.fetch(f"https://{inside}/x")
    with pytest.raises(RemoteError, match="not encrypted"):
        far.fetch("http://bucket.example/x")
    for wrong in (
        "https://a:b@bucket.example/x",
        "https:///x",
        "data:,x",
        "https://",
        "\x1b",
        f"https://{'a' * 70000}/",
    ):
        with pytest.raises(RemoteError, match="no address"):
            far.fetch(wrong)
    assert far._result("https://bucket.example/x?signed=1") == "https://bucket.example/x?signed=1"


@pytest.mark.fault("E8")
def test_the_key_is_shown_nowhere_though_the_host_says_it(
    evil: Hostile, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    echo = [f"X-Echo: {KEY}", f"Server: \x1b[31m{KEY}"]
    key = model_key(meta())
    facts = {**FACTS, "accelerator": f"{KEY}\x1b[2J", "attention": KEY}

    def script(path: str, headers: dict[str, str]) -> bytes:
        said: dict[str, Any] = {
            "/ping": {},
            "/whoami": {"email": f"{KEY}\x1b]0;title\x07"},
            "/env": {"python_version": "3.11.7", "packages": {"torch": "2.13.0", KEY: KEY}},
            "/status": {"deployments": {f"{KEY}:{key}": {"model_key": key, "application_state": KEY}}},
            "/request": {**JOB, "description": KEY, "meta": {KEY: KEY}},
            "/response/job-1": {
                **JOB, "status": "COMPLETED", "description": KEY, "meta": {KEY: KEY}, "data": f"{evil.url}/result?{KEY}"
            },
        }  # fmt: skip
        if path.startswith("/result"):
            return answer(saved({"results": [facts]}), status=f"200 {KEY}", headers=echo)
        return answer(said[path], status=f"200 {KEY}", headers=echo)

    evil.script = script
    host = Host(evil.url, KEY)
    found = preflight(host, model_key(meta()), meta(), wait=5)
    told += [*found.lines(), json.dumps(found.facts), str(found)]
    assert any("(API key)" in line for line in told) and found.facts["accelerator"] == "(API key)\\x1b[2J"
    with pytest.raises(RemoteError) as caught:  # facts are not what this was asked for
        jobs(evil, tmp_path, tell=told.append).run([reading()], "cell")
    told.append(str(caught.value))
    evil.script = lambda path, headers: answer(f"no {KEY} {KEY.upper()} \x1b[1m", status=f"400 {KEY}", headers=echo)
    for ask in (host.env, lambda: jobs(evil, tmp_path / "two").run([reading()], "cell")):
        with pytest.raises(RemoteError) as caught:
            ask()
        told.append(str(caught.value))
    evil.script = lambda path, headers: b"HTTP/9 " + KEY.encode() + b"\r\n\r\n"
    with pytest.raises(RemoteError) as caught:
        host.env()
    told.append(str(caught.value))
    failing = {**JOB, "status": "ERROR", "description": f"Traceback\n  line\x1b[2J {KEY}"}
    evil.script = lambda path, headers: answer(failing, headers=echo)
    with pytest.raises(JobError, match=r"line\\x1b\[2J \(API key\)"):
        jobs(evil, tmp_path / "three").run([reading()], "cell")
    printed = capfd.readouterr()
    files = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for text in (*told, *files, caplog.text, printed.out, printed.err):
        assert KEY not in text and KEY.upper() not in text and "\x1b" not in text and "\x07" not in text
    assert any("X-Echo" in line for line in caplog.text.splitlines())  # the libraries' own log went through it


def test_ill_typed_answers_end_a_look_at_a_host_in_notes(evil: Hostile) -> None:
    for wrong in (
        {},
        [],
        3,
        {"deployments": []},
        {"deployments": {"a": 3}},
        {"email": 3},
        {"packages": {"torch": None}},
    ):
        evil.script = lambda path, headers, wrong=wrong: answer(wrong)  # type: ignore[misc]
        found = preflight(Host(evil.url, KEY), model_key(meta()))
        assert {check.name for check in found.checks} >= {"host", "API key", "model", "versions"}
    deep = "class:" + "[" * 100_000
    evil.script = lambda path, headers: answer({"deployments": {"a": {"model_key": deep[:1900]}}})
    assert not preflight(Host(evil.url, KEY), "xmi/organism").ok


# Results


ROWS, LAYERS, WIDTH, VOCAB = 2, 2, 48, 200
INPUTS = {"input_ids": torch.ones(ROWS, 5, dtype=torch.long)}
PATHS = {"layers": "x", "n_layers": LAYERS}


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape)


CALLS: dict[str, tuple[Any, Any]] = {
    "stream": (reading(), torch.randn(2, 3, WIDTH)),
    "residual": (
        (residual_kernel, (INPUTS, PATHS, torch.full((ROWS, 1), -1), 1, [1, 2])),
        (torch.randn(1, 1, LAYERS, WIDTH), torch.randn(2, 1, LAYERS, WIDTH)),
    ),
    "lens": (
        (lens_kernel, (INPUTS, PATHS, torch.full((ROWS,), -1), [[[1], [2]]] * ROWS, 1.0, None, 4)),
        ((torch.rand(ROWS, 3, 2), ids(ROWS, 3, 2), ids(ROWS, 3, 4), torch.rand(ROWS, 3, 4)), ()),
    ),
    "decode": (
        (decode_kernel, (INPUTS, PATHS, torch.randn(3, WIDTH), [1, 2, 3], 1.0, None, 4)),
        (ids(3, 4), torch.rand(3, 4)),
    ),
    "trajectory": (
        (trajectory_kernel, (INPUTS, PATHS, torch.full((ROWS,), -1), torch.ones(ROWS, dtype=torch.long), 1.0, None)),
        (torch.rand(ROWS, 3), torch.rand(ROWS, 3), torch.rand(ROWS, 3)),
    ),
    "next tokens": (
        (next_token_kernel, (INPUTS, PATHS, torch.ones(ROWS, dtype=torch.long), 3)),
        (ids(ROWS, 3), -torch.rand(ROWS), ids(ROWS), -torch.rand(ROWS, 3)),
    ),
    "sweep": (
        (sweep_kernel, (INPUTS, PATHS, torch.randn(1, 2, WIDTH), [0, 1], torch.full((ROWS,), -1),
                        torch.ones(ROWS, dtype=torch.long), "overwrite", 1.0, 2, True, True, True)),
        (ids(ROWS, 3, 2), -torch.rand(ROWS, 3), ids(ROWS, 3), -torch.rand(ROWS, 3, 2)),
    ),
    "cache": (
        (cache_kernel, (INPUTS, [["a", "output"]], None)),
        (torch.randn(ROWS, 5, VOCAB), [torch.randn(ROWS, 5, WIDTH)]),
    ),
    "proof": (
        (proof_kernel, ({}, {}, {}, 1.0, None, True)),
        {"readout": 0.1, "causality": 0.0, "dead": -1, "positions": 1.0},
    ),
}  # fmt: skip
KNOWN = {"vocab": VOCAB, "d_model": WIDTH}


def tensors(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where tensors and numbers stand."""
    if isinstance(value, (tuple, list)):
        for number, part in enumerate(value):
            yield from tensors(part, (*place, number))
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from tensors(part, (*place, name))
    else:
        yield place


def at(value: Any, place: tuple[Any, ...]) -> Any:
    return value if not place else at(value[place[0]], place[1:])


def exchanged(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    if not place:
        return other
    if isinstance(value, dict):
        return {**value, place[0]: exchanged(value[place[0]], place[1:], other)}
    parts = list(value)
    parts[place[0]] = exchanged(parts[place[0]], place[1:], other)
    return type(value)(parts)


def _other_shapes(value: Any) -> list[Any]:
    if not torch.is_tensor(value):
        return []
    wrong = [torch.cat([value, value[:1]]), value[1:], value[None], value.to(torch.int32), value.bool()]
    wrong += [torch.cat([value, value], -1)] if value.dim() > 1 else []
    wrong += [value + 10**6, value - 10**6] if value.dtype == torch.int64 else [value.long()]
    return wrong


@pytest.mark.fault("E8")
@pytest.mark.parametrize("name", CALLS)
def test_a_result_is_what_was_asked_for(name: str) -> None:
    call, right = CALLS[name]
    ((wanted),) = expected([call])
    check(right, wanted, dict(KNOWN), "results[0]")
    most = largest(wanted, KNOWN)
    assert most is not None and len(saved(right)) < most + 2**14
    for place in tensors(right):
        for other in (None, "x", [], {}, ("x",), True, torch.tensor(1), *_other_shapes(at(right, place))):
            with pytest.raises(RemoteError, match=r"is not what was asked for: results\[0\]"):
                check(exchanged(right, place, other), wanted, dict(KNOWN), "results[0]")
                pytest.fail(f"{other} was taken at {place}")
    for wrong in (None, [], (), {}, 1, "x", torch.ones(1), [right], (right,)):
        with pytest.raises(RemoteError, match="is not what was asked for"):
            check(wrong, wanted, dict(KNOWN), "results[0]")


def test_every_kernel_that_travels_has_a_known_result() -> None:
    import xmi.kernels as kernels
    from xmi.remote.expected import _EXPECTED

    assert {kernel.__name__ for kernel in _EXPECTED} >= {name for name in kernels.__all__ if name.endswith("_kernel")}


@pytest.mark.fault("E8")
@pytest.mark.parametrize("kept", ["results", "more calls", "code", "a module", "sparse", "meta"])
def test_a_job_whose_result_is_another_is_refused(evil: Hostile, tmp_path: Path, kept: str) -> None:
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {touched}",)

    right = torch.zeros(2, 3, WIDTH)
    results: Any = {
        "results": 3,
        "more calls": [right] * 2,
        "code": [Evil()],
        "a module": [torch.nn.Linear(1, 1)],
        "sparse": [right.to_sparse()],
        "meta": [right.to("meta")],
    }[kept]
    completed(evil, saved({"results": results}))
    with pytest.raises(RemoteError, match=rf"cell: {evil.url}: "):
        jobs(evil, tmp_path / "jobs").run([reading()], "cell")
    assert not touched.exists() and not list(tmp_path.rglob("*.safetensors"))


@settings(max_examples=times(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), change=st.binary(min_size=1, max_size=8), cut=st.booleans())
def test_a_damaged_result_is_read_or_refused(place: float, change: bytes, cut: bool) -> None:
    whole = saved({"results": [(torch.ones(3), [1, 2.5, "x", None]), {"a": torch.ones(2, 2)}]})
    at = int(place * len(whole))
    try:
        unpack(whole[:at] if cut else whole[:at] + change + whole[at + len(change) :], 10**6)
    except RemoteError as error:
        assert "cannot be read as tensors and numbers" in str(error)


# A user's own trace


def traced(evil: Hostile, wait: float = 5) -> torch.Tensor:
    model = meta()
    backend = SafeBackend(Host(evil.url, KEY), model_key(model), {}, wait)
    with model.trace(input_ids=torch.ones(1, 3, dtype=torch.long), backend=backend):
        found = model.output.logits.save()
    return found


@pytest.mark.fault("E9")
def test_a_trace_takes_data_and_no_code(evil: Hostile, tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {touched}",)

    completed(evil, saved({"found": torch.arange(3)}))
    assert torch.equal(traced(evil), torch.arange(3))
    for content in (
        saved({"found": Evil()}),
        zstandard.compress(saved({"found": Evil()})),
        saved({"found": meta().config}),
    ):
        completed(evil, content)
        with pytest.raises(RemoteError, match="trust_host=True"):
            traced(evil)
    assert not touched.exists()
    evil.script = lambda path, headers: answer(
        {**JOB, "status": "RUNNING" if path == "/request" else "ERROR", "description": KEY}
    )
    with pytest.raises(JobError, match=r"could not run the trace:\n\(API key\)"):
        traced(evil)
    evil.script = lambda path, headers: answer(JOB)
    with pytest.raises(RemoteError, match=r"has not ended after 0.1 s of waiting. It is RUNNING"):
        traced(evil, 0.1)


@pytest.mark.fault("E9")
@pytest.mark.parametrize(
    "options", [{"remote": True}, {"remote": "http://h"}, {"remote": "http://h", "blocking": False}]
)
def test_nnsights_own_way_to_a_host_asks_for_trust(options: dict[str, Any]) -> None:
    vlm = xmi.load("organism", device="cpu", dtype="float32")
    with pytest.raises(RemoteError, match=r"remote.*un-pickles.*trust_host=True"):
        vlm.trace("France :", **options)
    tracer = vlm.trace("France :", trust_host=True, **options)
    assert type(tracer.backend).__name__ == "RemoteBackend"
