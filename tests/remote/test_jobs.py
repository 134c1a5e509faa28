"""Jobs that survive: what was sent is never sent again unasked, and what came back is what a plain forward gives."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnsight.schema.config import CONFIG

from tests.night import times
from tests.remote.loopback import KEY, Loopback
from tests.remote.meta import expected, meta, on_meta, reading, seeing
from xmi.errors import RemoteError
from xmi.kernels import residual_kernel, score
from xmi.remote import Host, Jobs, Ledger, fingerprint, model_key
from xmi.remote import host as host_module
from xmi.remote.incoming import unpack
from xmi.remote.job_store import Attempt, now
from xmi.remote.payload import build, coded, pool_rows
from xmi.remote.pytree import join, split

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(host_module, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    yield
    assert on_meta(), "a test loaded the weights on the client's side"


def jobs(server: Loopback, folder: Path, **options: Any) -> Jobs:
    return Jobs(Host(server.url, KEY), model_key(meta()), meta(), folder, **options)


def requests(server: Loopback) -> int:
    return int(server.stats()["requests"])


def state(made: Jobs, *calls: Any) -> str:
    last = made.ledger.last(fingerprint(made.model_key, calls, meta()._remoteable_get_env(), "cell"))
    assert last is not None
    return last.state


# What is sent, and what comes back


def test_calls_give_what_a_plain_forward_gives_in_one_request(server: Loopback, tmp_path: Path) -> None:
    before, told = requests(server), list[str]()
    made = jobs(server, tmp_path, tell=told.append)
    found = made.run([reading(1), reading(2, rows=3)], "cell")
    torch.testing.assert_close(found[0], expected(1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1], expected(2, 3), atol=1e-6, rtol=1e-6)
    assert requests(server) == before + 1
    ((label, count, up, down, seconds),) = made.traffic()
    last = server.stats()["jobs"][-1]
    assert (label, count, up, down) == ("cell", 1, last["payload_bytes"], last["result_bytes"]) and seconds > 0
    assert [line.split(":")[1].split()[0] for line in told] == ["submitted", "finished"]


@pytest.mark.parametrize("compress", [False, True])
def test_compression_is_as_nnsight_is_configured(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    monkeypatch.setattr(CONFIG.API, "COMPRESS", compress)
    (found,) = jobs(server, tmp_path).run([reading(3)], "cell")
    assert torch.equal(found, jobs(server, tmp_path).run([reading(3)], "cell")[0])
    torch.testing.assert_close(found, expected(3), atol=1e-6, rtol=1e-6)
    assert (server.stats()["jobs"][-1]["payload_bytes"] < 20_000) == compress


def images(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_equal_images_are_sent_once() -> None:
    def size(*batches: torch.Tensor) -> int:
        return len(build(meta(), [(residual_kernel, ({"pixel_values": batch}, {}, 1)) for batch in batches]))

    one = images(1).nbytes
    single = size(images(1))
    assert size(images(1), images(1, 1, 1), images(1, 1)) - single < one / 2
    assert size(images(1), images(2, 3)) - single > 1.7 * one


@settings(max_examples=times(25), deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_pooled_rows_are_put_together_exactly(batches: list[list[int]], dtype: torch.dtype) -> None:
    tensors = [torch.cat([torch.zeros(0, 3, 8, 8), *(images(s) for s in seeds)]).to(dtype) for seeds in batches]
    tensors += [images(0).double(), images(0).half()]  # of one shape, but another dtype
    tensors += [images(1)[0].permute(2, 0, 1)[:2, 0], torch.tensor([[[0.0, -0.0, float("nan")]]] * 2)]
    sent, pools = pool_rows(tensors)
    whole = [pools[part[0]][part[1]] if isinstance(part, list) else part for part in sent]
    for tensor, found in zip(tensors, whole, strict=True):
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert torch.equal(found.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))
    distinct = {(seed, dtype) for seeds in batches for seed in seeds} | {(0, torch.float64), (0, torch.float16)}
    assert sum(len(pool) for pool in pools) == len(distinct) + 3  # and two rows, and two equal ones of zeros


def test_images_arrive_exactly(server: Loopback, tmp_path: Path) -> None:
    """Two batches that share a picture, against each batch in a job of its own."""
    calls = [seeing("red", "blue"), seeing("blue", "red")]
    together = jobs(server, tmp_path).run(calls, "both")
    alone = [jobs(server, tmp_path).run([call], "one")[0] for call in calls]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together[0][0], together[0][1])


def test_another_process_sends_the_same_job_and_no_xmi_with_it(server: Loopback) -> None:
    """The kernels' text is all that travels; a process that never looked for local modules has registered no others."""
    script = (
        "import cloudpickle.cloudpickle as c, sys; from tests.remote.meta import meta, reading, seeing; "
        "from nnsight.schema.config import CONFIG; CONFIG.API.COMPRESS = False; "
        "from xmi.remote import fingerprint; from xmi.remote.payload import build; "
        "assert c._PICKLE_BY_VALUE_MODULES == {'xmi.kernels', 'xmi.remote'}, c._PICKLE_BY_VALUE_MODULES; "
        "sys.stderr.write('job ' + fingerprint('key', [reading(), seeing('red')], {'b': 1, 'a': 2})); "
        "sys.stdout.buffer.write(build(meta(), [reading()]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    job = fingerprint("key", [reading(), seeing("red")], {"a": 2, "b": 1})
    assert done.stderr.decode().endswith(f"job {job}")
    assert b"def stream_kernel" in done.stdout and b"jaxtyping" not in done.stdout
    host = Host(server.url, KEY)
    answer = host.submit(model_key(meta()), done.stdout, on_sent=lambda: None)
    until = time.monotonic() + 30
    while (found := host.look(answer.id)) is None or found.status != "COMPLETED":
        assert time.monotonic() < until and (found is None or found.status != "ERROR"), found
        time.sleep(0.05)
    torch.testing.assert_close(unpack(host.fetch(str(found.data)))["results"][0], expected(), atol=1e-6, rtol=1e-6)


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(RemoteError, match=r"meta\.reading cannot be sent"):
        build(meta(), [(reading, ())])
    with pytest.raises(RemoteError, match="<lambda> cannot be sent"):
        build(meta(), [(lambda model: 1, ())])
    for wrong, kind in ((Path("x"), "PosixPath"), ({1.5: 2}, "dict"), (torch.float32, "dtype"), ({"a": {3}}, "set")):
        with pytest.raises(RemoteError, match=rf"residual_kernel\[0\].*{kind}"):
            build(meta(), [(residual_kernel, (wrong,))])
        with pytest.raises(RemoteError, match=kind):
            fingerprint("key", [(residual_kernel, (wrong,))])
    with pytest.raises(RemoteError, match="without plain numbers"):
        fingerprint("key", [(residual_kernel, (torch.zeros(2, device="meta"),))])


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(images(1)[0]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


@settings(max_examples=times(50), deadline=None)
@given(value=nested)
def test_nestings_survive_being_taken_apart(value: Any) -> None:
    tensors: list[torch.Tensor] = []
    shape = split(value, tensors, "value")
    assert same(join(json.loads(json.dumps(shape)), tensors), value)


def test_results_are_data_never_code(tmp_path: Path) -> None:
    def packed(saved: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        return buffer.getvalue()

    value = {"results": [(torch.ones(2), 1.5, {"a": None})]}
    assert same(unpack(packed(value)), value)
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {touched}",)

    whole = packed({"results": [torch.ones(100)]})
    for wrong in (
        packed({"results": [Evil()]}),
        packed({1: 1}),
        packed([3]),
        whole[:-200],
        b"",
        b"x" * 9,
    ):
        with pytest.raises(RemoteError, match="cannot be read as tensors and numbers"):
            unpack(wrong)
    assert not touched.exists()


# The fingerprint


def test_a_fingerprint_says_what_is_asked_and_nothing_else() -> None:
    kernel, (inputs, paths, rows, columns) = reading()
    base = fingerprint("key", [reading()])
    assert base == fingerprint("key", [reading()])
    view = torch.stack([columns, columns], 1)[:, 0]  # other memory, same numbers
    assert base == fingerprint("key", [(kernel, [inputs, paths, rows, view])])
    others = [
        fingerprint("key2", [reading()]),
        fingerprint("key", [reading()], {"attn_implementation": "eager"}),
        fingerprint("key", [reading()], label="another cell"),
        fingerprint("key", [reading(), reading()]),
        fingerprint("key", [reading(5)]),
        fingerprint("key", [(score, (inputs, paths, rows, columns))]),
        fingerprint("key", [(kernel, (inputs, paths, rows, columns.int()))]),
        fingerprint("key", [(kernel, (inputs, paths, rows, columns.view(torch.float64)))]),
        fingerprint("key", [(kernel, (inputs, paths, rows, columns[:, None]))]),
        fingerprint("key", [(kernel, (inputs, {**paths, "n_layers": 2.0}, rows, columns))]),
        fingerprint("key", [(kernel, (inputs, {**paths, "n_layers": "2"}, rows, columns))]),
        fingerprint("key", [(kernel, ((inputs,), paths, rows, columns))]),
    ]
    assert len({base, *others}) == len(others) + 1


def test_other_kernel_code_is_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmi.remote import identity

    base = fingerprint("key", [reading()])
    (tmp_path / "residuals.py").write_text("changed")
    identity._kernel_code.cache_clear()
    monkeypatch.setattr(identity, "files", lambda package: tmp_path)
    try:
        assert fingerprint("key", [reading()]) != base
    finally:
        identity._kernel_code.cache_clear()


# The model's name


def test_only_models_of_the_hub_have_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnsight.modeling.huggingface import _ID_CACHE

    assert model_key(meta()).endswith('{"repo_id": "xmi/organism", "revision": null, "task": "image-text-to-text"}')
    monkeypatch.delitem(_ID_CACHE, meta().repo_id)
    with pytest.raises(RemoteError, match="by its Hub id"):
        model_key(meta())
    monkeypatch.setattr(meta(), "repo_id", None)
    with pytest.raises(RemoteError, match="a module in memory"):
        model_key(meta())
    monkeypatch.setattr(meta(), "repo_id", "no id at all")
    with pytest.raises(RemoteError, match="does not confirm the id 'no id at all'"):
        model_key(meta())


# The ledger


def attempt(**changes: Any) -> Attempt:
    return Attempt(**{"label": "cell", "host": "http://h", "model_key": "k", "begun": now(), "up": 10, **changes})


def test_the_ledger_keeps_results_until_they_are_stored(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "jobs")
    assert ledger.last("a") is None and ledger.result("a") is None and ledger.traffic() == []
    results = [(torch.zeros(2, 0), torch.tensor(3), images(1).bfloat16()), [], {"a": float("inf")}, "x", None, True]
    shared = images(2)
    results.append([shared, shared, shared[0, 0], shared.permute(0, 2, 3, 1), torch.tensor([True])])
    ledger.begin("a", attempt())
    ledger.keep("a", results)
    assert same(Ledger(tmp_path / "jobs").result("a"), results)
    assert ledger.named("cell") == ["a"] and ledger.named("other") == []
    ledger.release("a")
    assert ledger.result("a") is None and ledger.last("a") is not None
    with pytest.raises(RemoteError, match=r"result\[0\] is of type set"):
        ledger.keep("a", [{1}])


def test_the_ledger_counts_what_may_have_been_paid_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("a", attempt())
    assert ledger.traffic() == []
    ledger.begin("a", attempt(up=20))  # what never left is forgotten
    begun = ledger.change("a", state="sent").begun
    assert len(json.loads((tmp_path / "a.json").read_text())["attempts"]) == 1
    assert ledger.traffic() == [("cell", 1, 20, 0, 0.0)]
    ledger.begin("a", attempt(up=30))
    ledger.change("a", state="finished", down=5, ended=now())
    ledger.begin("b", attempt(label="first", begun=begun.replace(year=2020)))
    ledger.change("b", state="refused")
    (row,) = ledger.traffic()
    assert row[:4] == ("cell", 2, 50, 5) and 0 <= row[4] < 5
    ledger.change("b", state="submitted")
    assert [row[0] for row in ledger.traffic()] == ["first", "cell"]


def test_a_ledger_that_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("a", attempt())
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RemoteError, match=r"a\.json holds no job of xmi: .* Delete it"):
        ledger.last("a")
    (tmp_path / "a.safetensors").write_bytes(b"short")
    with pytest.raises(RemoteError, match=r"a\.safetensors holds no job of xmi"):
        ledger.result("a")
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteError, match="Cannot write"):
        Ledger(tmp_path / "file").begin("b", attempt())


# Nothing is paid for twice


def test_a_result_is_there_until_it_is_released(server: Loopback, tmp_path: Path) -> None:
    (first,) = jobs(server, tmp_path).run([reading()], "cell")
    stats = server.stats()
    made = jobs(server, tmp_path)
    assert torch.equal(made.run([reading()], "cell")[0], first)
    assert server.stats()["seen"] == stats["seen"]  # not even a question
    assert [p.suffix for p in sorted(tmp_path.iterdir())] == [".json", ".safetensors"]
    made.release("cell")
    assert [p.suffix for p in sorted(tmp_path.iterdir())] == [".json"]
    assert torch.equal(made.run([reading()], "cell")[0], first)  # asked for once more, it runs once more
    assert requests(server) == stats["requests"] + 1
    ((_, count, *_rest),) = made.traffic()
    assert count == 2


def test_a_job_that_takes_longer_is_waited_for_again(server: Loopback, tmp_path: Path) -> None:
    before, told = requests(server), list[str]()
    server.faults(delay=60)
    with pytest.raises(RemoteError, match=r"cell: job \w+ has not ended after 0.3 s.*DISPATCHED.*not lost"):
        jobs(server, tmp_path, wait=0.3).run([reading()], "cell")
    assert state(jobs(server, tmp_path), reading()) == "submitted"
    server.faults()
    (found,) = jobs(server, tmp_path, tell=told.append).run([reading()], "cell")
    torch.testing.assert_close(found, expected(), atol=1e-6, rtol=1e-6)
    assert requests(server) == before + 1 and "resumed" in told[0]


def test_a_refused_request_is_simply_sent_again(server: Loopback, tmp_path: Path) -> None:
    before = requests(server)
    server.faults(reject={"status": 400, "detail": "nnsight 0.8.1 is too old"})
    with pytest.raises(RemoteError, match=r"^cell: .*nnsight 0.8.1 is too old") as caught:
        jobs(server, tmp_path).run([reading()], "cell")
    assert caught.value.__suppress_context__
    assert state(jobs(server, tmp_path), reading()) == "refused"
    jobs(server, tmp_path).run([reading()], "cell")
    assert requests(server) == before + 1


def test_a_host_that_is_away_gets_the_job_later(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmi.remote.jobs.AWAY", 0.2)
    nowhere = Jobs(Host("http://127.0.0.1:9", KEY), model_key(meta()), meta(), tmp_path)
    with pytest.raises(RemoteError, match=r"cell: .*cannot be reached.*Nothing was run there"):
        nowhere.run([reading()], "cell")
    assert state(nowhere, reading()) == "sending"
    jobs(server, tmp_path).run([reading()], "cell")


def test_a_job_is_sent_when_the_host_is_back(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, made, real = requests(server), jobs(server, tmp_path), httpx.Client.send
    away = list(range(6))  # longer than a single submission is tried

    def send(self: httpx.Client, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        if request.method == "POST" and away:
            assert state(made, reading()) == "sending"
            raise httpx.ConnectError(f"{away.pop()} to go")
        return real(self, request, **kwargs)

    monkeypatch.setattr(httpx.Client, "send", send)
    (found,) = made.run([reading()], "cell")
    torch.testing.assert_close(found, expected(), atol=1e-6, rtol=1e-6)
    assert requests(server) == before + 1 and made.traffic()[0][1] == 1


@pytest.mark.parametrize("fault", [{"drop": 1}, {"drop_before": 1}, {"reject": 502}])
def test_a_job_without_an_answer_is_not_sent_again_unasked(
    server: Loopback, tmp_path: Path, fault: dict[str, int]
) -> None:
    before = server.stats()["seen"].get("POST /request", 0)
    server.faults(**fault)
    with pytest.raises(RemoteError, match=r"cell: .*unknown.*resubmit=True"):
        jobs(server, tmp_path).run([reading()], "cell")
    with pytest.raises(RemoteError, match=r"cell: .*no answer came.*unknown.*resubmit=True"):
        jobs(server, tmp_path).run([reading()], "cell")
    assert server.stats()["seen"]["POST /request"] == before + 1
    made = jobs(server, tmp_path, resubmit=True)
    torch.testing.assert_close(made.run([reading()], "cell")[0], expected(), atol=1e-6, rtol=1e-6)
    assert made.traffic()[0][1] == 2  # both may have been paid for
    made.run([reading()], "cell")
    assert server.stats()["seen"]["POST /request"] == before + 2


def test_a_failed_job_says_why_each_time_and_runs_again_on_request(server: Loopback, tmp_path: Path) -> None:
    before = requests(server)
    server.faults(error="Traceback:\n" + "line\n" * 50 + "torch.OutOfMemoryError: CUDA out of memory")
    for _ in range(2):
        with pytest.raises(RemoteError, match=r"cell: .*\n(.*\n)*.*OutOfMemoryError: CUDA out of memory") as caught:
            jobs(server, tmp_path).run([reading()], "cell")
        assert str(caught.value).count("\n") < 20
    assert requests(server) == before + 1
    jobs(server, tmp_path, resubmit=True).run([reading()], "cell")
    assert requests(server) == before + 2


def test_an_error_in_a_kernel_is_the_hosts_message(server: Loopback, tmp_path: Path) -> None:
    kernel, (inputs, paths, rows, _) = reading()
    with pytest.raises(RemoteError, match=r"text ICL: the host could not run the job:(.|\n)*IndexError"):
        jobs(server, tmp_path).run([(kernel, (inputs, paths, rows, torch.full((2,), 99)))], "text ICL")


@pytest.mark.parametrize("code", [403, 404])
def test_an_expired_result_is_lost_until_asked_for(server: Loopback, tmp_path: Path, code: int) -> None:
    before = requests(server)
    server.faults(expire=code)
    for _ in range(2):
        with pytest.raises(RemoteError, match=r"cell: the job .* has ended, but .*about an hour.*resubmit=True"):
            jobs(server, tmp_path).run([reading()], "cell")
    assert state(jobs(server, tmp_path), reading()) == "lost" and requests(server) == before + 1
    with pytest.raises(RemoteError, match="has ended, but"):
        jobs(server, tmp_path, resubmit=True).run([reading()], "cell")  # the new one's result is gone, too
    assert requests(server) == before + 2
    server.faults()
    jobs(server, tmp_path).run([reading()], "cell")  # it came back: nothing to pay for
    assert requests(server) == before + 2


def test_a_job_that_the_host_forgot_is_lost(server: Loopback, tmp_path: Path) -> None:
    made = jobs(server, tmp_path, wait=0.3)
    name = fingerprint(made.model_key, [reading()], meta()._remoteable_get_env(), "cell")
    made.ledger.begin(name, attempt(state="submitted", job_id="gone", host=server.url))
    begun = time.monotonic()
    with pytest.raises(RemoteError, match=r"cell: .*knows no job gone"):
        made.run([reading()], "cell")
    assert time.monotonic() - begun >= 0.3 and state(made, reading()) == "lost"
    with pytest.raises(RemoteError, match=r"cell: .*knows no job gone"):
        made.run([reading()], "cell")
    before = requests(server)
    jobs(server, tmp_path, resubmit=True).run([reading()], "cell")
    assert requests(server) == before + 1


def test_a_job_of_another_host_is_not_asked_for_here(server: Loopback, tmp_path: Path) -> None:
    made = jobs(server, tmp_path)
    name = fingerprint(made.model_key, [reading()], meta()._remoteable_get_env(), "cell")
    made.ledger.begin(name, attempt(state="submitted", job_id="there", host="http://other"))
    with pytest.raises(RemoteError, match="cell: job there is at http://other"):
        made.run([reading()], "cell")


def test_trouble_while_polling_and_fetching_is_waited_out(server: Loopback, tmp_path: Path) -> None:
    server.faults(drop_reading=10)
    (found,) = jobs(server, tmp_path).run([reading()], "cell")
    torch.testing.assert_close(found, expected(), atol=1e-6, rtol=1e-6)
    server.faults(reject={"status": 503, "times": 10, "on": "/res"})
    jobs(server, tmp_path).run([reading(1)], "cell")
    server.faults(reject={"status": 401, "on": "/response"})
    with pytest.raises(RemoteError, match="Check the API key"):
        jobs(server, tmp_path).run([reading(2)], "cell")
    assert state(jobs(server, tmp_path), reading(2)) == "submitted"


def test_ctrl_c_leaves_the_job_for_later(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = requests(server)

    def interrupt() -> Iterator[float]:
        raise KeyboardInterrupt
        yield 0.0

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        server.faults(delay=60)
        patch.setattr("xmi.remote.jobs.pauses", interrupt)
        jobs(server, tmp_path).run([reading()], "cell")
    assert state(jobs(server, tmp_path), reading()) == "submitted"
    server.faults()
    jobs(server, tmp_path).run([reading()], "cell")
    assert requests(server) == before + 1


def test_the_key_is_in_no_file_and_no_message(
    server: Loopback, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    faults: list[dict[str, Any]] = [
        {}, {"error": f"no access with {KEY}"}, {"reject": {"status": 400, "detail": f"bad key {KEY}"}},
        {"expire": 403}, {"drop": 1}, {"drop_before": 1},
    ]  # fmt: skip
    for seed, fault in enumerate(faults):
        server.faults(**fault)
        made = jobs(server, tmp_path, tell=told.append)
        try:
            made.run([reading(seed)], "cell")
        except RemoteError as error:
            told += [str(error), repr(error), "".join(traceback.format_exception(error))]
        told.append(repr(vars(made)))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    states = {Ledger(tmp_path).last(path.stem).state for path in files if path.suffix == ".json"}  # type: ignore[union-attr]
    assert states == {"finished", "failed", "refused", "lost", "sent"}
    assert any("(API key)" in line for line in told)
    printed = capfd.readouterr()
    for text in (*told, caplog.text, printed.out, printed.err):
        assert KEY not in text
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


# Killed


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A server that knows its jobs again after it was killed."""
    with Loopback(state=tmp_path_factory.mktemp("server") / "state") as server:
        yield server


def test_a_server_that_comes_back_is_waited_for(
    lasting: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, made = requests(lasting), jobs(lasting, tmp_path)

    def pauses() -> Iterator[float]:
        assert state(made, reading()) == "submitted"
        lasting.kill()
        yield 0.01
        assert not made.host.reachable()
        lasting.start()
        while True:
            yield 0.05

    lasting.faults(delay=60)
    monkeypatch.setattr("xmi.remote.jobs.pauses", pauses)
    (found,) = made.run([reading()], "cell")
    torch.testing.assert_close(found, expected(), atol=1e-6, rtol=1e-6)
    assert requests(lasting) == before + 1


CELLS = 5


def study(url: str, folder: Path, resubmit: bool) -> None:
    """A little study: each cell is one job of two calls, stored, then released."""
    made = Jobs(Host(url, KEY), model_key(meta()), meta(), folder / "jobs", resubmit=resubmit)
    for cell in range(CELLS):
        target = folder / f"{cell}.pt"
        if not target.exists():
            found = made.run([reading(10 * cell), reading(10 * cell + 1)], f"cell {cell}")
            torch.save(found, folder / "part")
            (folder / "part").rename(target)
        made.release(f"cell {cell}")


def child(url: str, folder: Path, resubmit: bool) -> None:
    host_module.PAUSES = (0.1, 0.4, 1.5)
    try:
        study(url, folder, resubmit)
    except RemoteError as error:
        (folder / "error").write_text(str(error))
        os._exit(3 if "no answer came" in str(error) else 4)
    os._exit(0)


@pytest.mark.nightly
def test_killed_clients_and_servers_change_nothing(lasting: Loopback, tmp_path: Path) -> None:
    """Ten kills of the client at random moments, one of the server: the results are those of an undisturbed study."""
    rng, forks = random.Random(0), multiprocessing.get_context("fork")
    before, hits, unsure, resubmit = lasting.stats(), 0, 0, False
    lasting.faults(delay=0.25)
    for turn in range(40):
        process = forks.Process(target=child, args=(lasting.url, tmp_path, resubmit))
        process.start()
        if hits < 10:
            time.sleep(rng.random() * 0.35)
            hits += process.is_alive()
            if turn == 5:
                lasting.kill()
            process.kill()
        process.join()
        if turn == 5:
            lasting.start()
            lasting.faults(delay=0.25)
        if process.exitcode == 0:
            break
        assert process.exitcode in (-9, 3), (tmp_path / "error").read_text()
        resubmit = process.exitcode == 3  # only what is said to be unsure is sent again, and only when asked
        unsure += resubmit
    stats, rows = lasting.stats(), Ledger(tmp_path / "jobs").traffic()
    assert process.exitcode == 0 and hits >= 10
    for cell in range(CELLS):
        found = torch.load(tmp_path / f"{cell}.pt", weights_only=True)
        for place, values in enumerate(found):
            torch.testing.assert_close(values, expected(10 * cell + place), atol=1e-6, rtol=1e-6)
    assert [row[0] for row in rows] == [f"cell {cell}" for cell in range(CELLS)]
    assert sum(row[1] for row in rows) == CELLS + unsure
    new = stats["jobs"][len(before["jobs"]) :]
    assert CELLS <= len(new) <= CELLS + unsure
    assert sum(job["runs"] for job in new) <= len(new) + 1  # one that ran when the server was killed runs once more


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 256, 257, 2**15, 2**15 + 1])
def test_numbers_travel_by_table_bit_for_bit(dtype: torch.dtype, count: int) -> None:
    bits = {torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    numbers = torch.arange(count).to(bits).view(dtype)  # NaN and subnormal numbers among them
    pool = numbers[torch.arange(2 * count) * 7919 % count].reshape(2, 1, -1)
    parts = coded(pool)
    assert len(parts) == (1 if count > 2**15 else 2)
    whole = parts[0] if len(parts) == 1 else parts[0][parts[1].long()]  # as `run_calls` does
    assert torch.equal(whole.view(bits), pool.view(bits))
