"""A model on a host: everything that can be asked of a model gives there what it gives here, and no weights come."""

from __future__ import annotations

import itertools
import math
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnsight.schema.config import CONFIG

import xmi
from tests.remote.compare import TOLERANCE, differences
from tests.remote.loopback import EMBEDDED, KEY, Loopback
from xmi.backend import portions
from xmi.kernels.residuals import at
from xmi.lens import TunedLens
from xmi.loading import untrained
from xmi.model import engine as engine_module
from xmi.remote import host as host_module
from xmi.vector import memory, shared_pairs
from xmi.vlm import VLM

CAPITAL, CURRENCY = xmi.task("country-capital"), xmi.task("country-currency")
TEXT, IMAGE = CAPITAL.icl("text", shots=3, n=20), CAPITAL.icl("image", shots=2, n=3)
QUERIES = {modality: CAPITAL.queries(modality)[:3] for modality in ("text", "image")}
KINDS = [", ".join(kind) for kind in itertools.product(("last", "earlier"), ("one", "more"), ("images", "text"))]


@pytest.fixture(scope="module")
def far(server: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLM]:
    """The embedded model on the loopback server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("NDIF_API_KEY", KEY)
        patch.setattr(host_module, "PAUSES", (0.01, 0.01, 0.01))
        yield xmi.load("organism", remote=server.url)


@pytest.fixture(scope="module")
def near() -> VLM:
    return xmi.load("organism", device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def _meta(far: VLM) -> Iterator[None]:
    yield
    for model in (far.model, far.engine.envoy._module):
        assert all(tensor.is_meta for tensor in model.parameters()), "a test loaded the weights on the client's side"


def requests(server: Loopback) -> int:
    return int(server.stats()["requests"])


def test_the_comparison_finds_what_differs() -> None:
    vector = xmi.load("organism").task_vector(TEXT[:2])
    other = replace(vector, values=vector.values + 2e-5)
    assert differences(vector, vector) == [] and len(differences(vector, other)) == 1
    card = vector.card.model_copy(update={"n": 3})
    assert differences({"a": [vector]}, {"a": [replace(vector, card=card)]}) == [".a[0].card.n: 2 != 3"]
    assert differences((1.0, math.nan), (1.0, math.nan)) == [] and differences((1.0, 2), (1.0, 3))


@lru_cache(maxsize=1)
def vectors() -> dict[str, xmi.TaskVector]:
    vlm = xmi.load("organism", device="cpu", dtype="float32")
    return {"text": vlm.task_vector(TEXT), "told": vlm.task_vector(CAPITAL.instruction())}


@lru_cache(maxsize=1)
def tuned() -> TunedLens:
    """A lens that reads nothing in particular."""
    vlm = xmi.load("organism", device="cpu", dtype="float32")
    lens, rng = vlm.tune_lens(TEXT, steps=1, size=4), torch.Generator().manual_seed(0)
    return replace(
        lens,
        weight=0.1 * torch.randn(lens.weight.shape, generator=rng),
        bias=0.1 * torch.randn(lens.bias.shape, generator=rng),
    )


def transfer(target: str, **options: Any) -> Callable[[VLM], Any]:
    return lambda vlm: vlm.transfer(vectors(), to=QUERIES[target], **options)


HOOKS = ["ln_final.hook_normalized", "resid_post", "blocks.1.hook_resid_pre"]
READING: dict[str, Callable[[VLM], Any]] = {
    "a task vector": lambda vlm: vlm.task_vector(TEXT),
    "a task vector of images": lambda vlm: vlm.task_vector(IMAGE),
    "residuals": lambda vlm: vlm.residuals(IMAGE, slot="example[-1].delimiter"),
    "vectors at slots": lambda vlm: vlm.vectors_at(TEXT, ["last", "example[0].answer"], keep=17),
    "nested vectors": lambda vlm: vlm.nested_vectors(TEXT, [1, 3, 16, 20]),
    "answers": lambda vlm: vlm.answers(TEXT),
    "answers of two tokens": lambda vlm: vlm.answers(IMAGE, max_new_tokens=2),
    "the logit lens": lambda vlm: vlm.lens(TEXT),
    "a tuned lens": lambda vlm: vlm.lens(IMAGE, lens=tuned(), k=3),
    "a vector decoded": lambda vlm: vectors()["text"].decode(vlm),
    "a trajectory": lambda vlm: vlm.trajectory(IMAGE, lens=tuned()),
    "phases": lambda vlm: vlm.phases(TEXT),
    "phases by a tuned lens": lambda vlm: vlm.phases(IMAGE, lens=tuned()),
    "phases and answers": lambda vlm: vlm.phases_and_answers(IMAGE, max_new_tokens=2),
    "task words": lambda vlm: vlm.find_task_words([TEXT, CURRENCY.icl("text", shots=2, n=4)], share=0.1, mass=0.0),
    "activations": lambda vlm: vlm.run_with_cache(IMAGE[:2], names=HOOKS),
    "some slots": lambda vlm: vlm.run_with_cache(TEXT[:2], names=HOOKS[1:], positions=["query.input", "last"]),
    "a continuation": lambda vlm: vlm.generate(IMAGE[:2], max_new_tokens=3),
}  # fmt: skip


@pytest.mark.parametrize("what", READING)
def test_reading_there_is_reading_here_in_one_request(server: Loopback, far: VLM, near: VLM, what: str) -> None:
    if what in ("answers of two tokens", "phases and answers"):
        READING[what](far)  # that further tokens may be read from kept keys and values is proven beforehand
    expected, before = READING[what](near), server.stats()
    found = READING[what](far)
    assert differences(expected, found) == []
    after = server.stats()
    assert after["requests"] == before["requests"] + 1
    assert after["executed"] == before["executed"] + 1 and after["pid"] not in (os.getpid(), os.getppid())


PATCHING = {
    "text": transfer("text"),
    "images": transfer("image"),
    "some tokens": transfer("image", max_new_tokens=3),
    "another slot": transfer("text", slot="query.input"),
    "an image's slot": transfer("image", slot="query.input", max_new_tokens=2),
    "adding": transfer("text", mode="add", strength=0.5, layers=[1]),
    "interpolating": transfer("image", mode="interpolate", strength=0.3, layers=[1, 0]),
}


@pytest.mark.parametrize("what", PATCHING)
def test_patching_there_is_patching_here(
    server: Loopback, far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    expected = PATCHING[what](near)
    monkeypatch.setattr(far.engine.learned, "ways", {})
    before = requests(server)
    assert differences(expected, PATCHING[what](far)) == []
    # The first sweep of a kind is proven beforehand: rows of their own and packed runs, in one request.
    way = "growing, cached" if "tokens" in what or "image's" in what else "growing"
    assert set(far.engine.ways.values()) == {way} and requests(server) == before + 2
    assert differences(expected, PATCHING[what](far)) == []
    assert requests(server) == before + 3


@pytest.mark.parametrize(
    "options", [{"num_beams": 3, "num_return_sequences": 2}, {"stop_strings": ["\n", "Q"]}], ids=lambda o: next(iter(o))
)
def test_options_of_generation_are_obeyed_there(far: VLM, near: VLM, options: dict[str, Any]) -> None:
    prompts = ["Q:Greece\nA:", "Q:a red apple\nA:"]
    there, here = (vlm.generate(prompts, max_new_tokens=5, **options) for vlm in (far, near))
    assert torch.equal(there.ids, here.ids) and there.texts == here.texts and there.prompts == here.prompts
    with pytest.raises(xmi.PromptError, match="logits_processor: objects do not travel"):
        far.generate(prompts, logits_processor=object())
    with pytest.raises(xmi.PromptError, match="in all: ask for"):
        far.generate(prompts, max_new_tokens=10**6)


def test_ensembling_takes_three_requests(server: Loopback, far: VLM, near: VLM) -> None:
    def curve(vlm: VLM) -> Any:
        return vlm.ensembling([CAPITAL, CURRENCY], prompts=(1, 3), seeds=(0, 1), n=3)

    transfer("image")(far)  # proven
    expected, before = curve(near), requests(server)
    assert differences(expected, curve(far)) == []
    assert requests(server) == before + 3  # all vectors; the layer, on validation queries; that layer, on test queries


def test_overriding_takes_two_requests(server: Loopback, far: VLM, near: VLM) -> None:
    assert (CAPITAL, CURRENCY) in shared_pairs([CAPITAL, CURRENCY])

    def contest(vlm: VLM) -> Any:
        return vlm.override(CAPITAL, CURRENCY, shots=2, n=4)

    transfer("text")(far)
    expected, before = contest(near), requests(server)
    assert differences(expected, contest(far)) == []
    assert requests(server) == before + 2  # the vector, and what it is patched into


def test_a_base_llm_is_compared_on_the_host(server: Loopback, far: VLM, near: VLM) -> None:
    base = xmi.load("organism-llm", remote=server.url)
    assert all(tensor.is_meta for tensor in base.model.parameters())
    assert base.engine.backend.key != far.engine.backend.key  # type: ignore[attr-defined]
    here, told = xmi.load("organism-llm", device="cpu", dtype="float32"), ["France : Paris", "Italy :"]
    one, two = near.compare_base(here, told), far.compare_base(base, told)
    assert np.isfinite(one.moved).all() and np.isnan(two.moved).all()  # how far weights moved is not known of a host's
    assert differences(replace(one, moved=two.moved), two) == []
    assert differences(here.task_vector(TEXT), base.task_vector(TEXT)) == []
    vector = base.task_vector(TEXT)
    assert differences(*(vlm.transfer(vector, to=QUERIES["text"]) for vlm in (near, far))) == []


def test_a_trace_runs_there(far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = IMAGE[:2]
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)  # nnsight reads the environment when it is imported
    resid, model = far.resid_post, far.engine.envoy
    with far.trace(prompt):
        there = resid[0][:, -1].cpu().clone().save()
        resid[0][:, -1] = 0
        moved = model.output.logits[:, -1].cpu().save()
    _, cache = near.run_with_cache(prompt, names=["blocks.0.hook_resid_post"], positions="last")
    torch.testing.assert_close(there, cache["blocks.0.hook_resid_post"][:, 0], atol=TOLERANCE, rtol=0)

    def zero(value: torch.Tensor, hook: Any) -> None:
        value[:, -1] = 0

    logits = near.run_with_hooks(prompt, fwd_hooks=[("blocks.0.hook_resid_post", zero)])
    torch.testing.assert_close(moved, logits[:, -1], atol=TOLERANCE, rtol=0)
    with pytest.raises(xmi.RemoteError, match="Take what you read before the block"), far.trace(prompt):
        there = far.resid_post[0].save()
    with pytest.raises(xmi.ModelError, match="would load them here"), model.trace("France :"):
        there = model.output.save()


@pytest.mark.parametrize("name", ["blocks.0.hook_attn_out", "blocks.7.hook_mlp_out"])
def test_parts_of_a_block_are_read_and_written_in_a_trace_there(
    far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)
    prompt, model = IMAGE[:2], far.engine.envoy
    point = near.report.anatomy.points[name]
    part, place = at(model, point.module), point.place
    with far.trace(prompt):
        value = part.output if place is None else part.output[place]
        there = value[:, -1].cpu().clone().save()
        value[:, -1] = 0
        moved = model.output.logits[:, -1].cpu().save()
    _, cache = near.run_with_cache(prompt, names=[name], positions="last")
    torch.testing.assert_close(there, cache[name][:, 0], atol=TOLERANCE, rtol=0)

    def zero(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[:, -1] = 0
        return value

    logits = near.run_with_hooks(prompt, fwd_hooks=[(name, zero)])
    torch.testing.assert_close(moved, logits[:, -1], atol=TOLERANCE, rtol=0)
    assert not torch.allclose(moved, near.run_with_cache(prompt, names=[name])[0][:, -1], atol=1e-3)


# Sweeps that cannot be packed


def test_what_is_not_proven_there_gets_rows(
    server: Loopback, far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engine_module, "TOLERANCE", {torch.float32: -1.0}
    )  # no packed run is near enough to a plain one
    monkeypatch.setattr(near.engine.learned, "ways", dict.fromkeys(KINDS, "rows"))
    for what in ("images", "some tokens", "another slot", "interpolating"):
        monkeypatch.setattr(far.engine.learned, "ways", {})
        expected, before = PATCHING[what](near), requests(server)
        with pytest.warns(UserWarning, match="patched runs cannot share a forward here"):
            found = PATCHING[what](far)
        assert set(far.engine.ways.values()) == {"rows"}
        assert differences(expected, found) == []
        ways = 4 if what == "some tokens" else 2
        assert requests(server) == before + ways + 1  # each way, the first with the plain one; rows


def test_a_way_that_fails_there_is_left(server: Loopback, far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far.engine.learned, "ways", {})
    expected = PATCHING["text"](near)
    server.faults(error="RuntimeError: the mask has another shape")
    assert differences(expected, PATCHING["text"](far)) == []
    assert set(far.engine.ways.values()) == {"packed"}
    monkeypatch.setattr(far.engine.learned, "ways", {})
    server.faults(drop=1)  # not the model's fault: no way is given up for it
    with pytest.raises(xmi.RemoteError, match="no answer came"):
        PATCHING["images"](far)
    assert far.engine.ways == {}
    # It may have run there, so it is sent again on request alone.
    monkeypatch.setattr(far.engine.backend.requests.jobs, "resubmit", True)
    PATCHING["images"](far)


@pytest.mark.parametrize("budget", [1, 3])
def test_what_does_not_fit_into_one_forward_still_is_one_request(
    server: Loopback, far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    PATCHING["another slot"](far)
    expected, before = PATCHING["another slot"](near), requests(server)
    monkeypatch.setattr(memory, "MOST_TOKENS", {"cpu": budget})
    assert differences(expected, PATCHING["another slot"](far)) == []
    assert requests(server) == before + 1


PICTURE = 3 * 48 * 48
"""Bytes of a picture of the embedded model."""
LARGE: dict[str, Callable[[VLM], Any]] = {
    "a task vector of images": READING["a task vector of images"],
    "phases and answers": READING["phases and answers"],
    "images": PATCHING["images"],
}


@pytest.mark.parametrize("what", LARGE)
def test_a_large_request_is_cut_and_gives_the_same_bytes(
    server: Loopback, far: VLM, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    vlm = VLM(far.engine, batch_size=1)
    LARGE[what](vlm)  # what the model must first be asked is known
    before = server.stats()
    whole = LARGE[what](vlm)
    monkeypatch.setattr(portions, "ROOM", 4 * PICTURE)
    between = server.stats()
    parts = LARGE[what](vlm)
    jobs = server.stats()["jobs"]
    assert differences(whole, parts, atol=0.0) == []
    (one,), several = jobs[before["requests"] : between["requests"]], jobs[between["requests"] :]
    # Three prompts of three pictures each; of the queries, one each, three fit but for the vectors.
    assert len(several) == (2 if what == "images" else 3)
    assert max(job["payload_bytes"] for job in several) < one["payload_bytes"]
    assert {job["runs"] for job in several} == {1}


def test_a_prompt_too_large_for_a_request_goes_alone(
    server: Loopback, far: VLM, near: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "ROOM", PICTURE)
    monkeypatch.setattr(far.engine.backend, "_told", False)
    expected, before = near.task_vector(IMAGE), requests(server)
    with pytest.warns(UserWarning, match="the images of one prompt take about 0.0 MB, and a prompt goes whole"):
        found = far.task_vector(IMAGE)
    assert differences(expected, found) == [] and requests(server) == before + len(IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far.task_vector(IMAGE)  # said once


# What is known of the model, and what is refused


def test_the_check_proves_what_can_be_proven_from_here(server: Loopback, far: VLM, near: VLM) -> None:
    before = requests(server)
    report = far.check()
    assert requests(server) == before + 1  # the picture; the texts were proven when it was loaded
    assert report.readout_error < TOLERANCE and report.causal and report.image_effect
    assert far.engine.wants_positions == near.engine.wants_positions
    assert set(far.hook_names) < set(near.hook_names)
    told = far.describe()
    assert f"runs on {server.url}" in told and "dtype float32" in told and KEY not in told
    assert far.engine.dtype == torch.float32 and far.revision == near.revision


def test_a_wrong_readout_is_refused(far: VLM) -> None:
    wrong = replace(far.engine, backbone=replace(far.backbone, scale=2 * far.backbone.scale))
    with pytest.raises(xmi.ModelError, match=r"differ from the host's logits by [1-9]"):
        VLM(wrong).check()


def test_a_model_that_does_not_see_is_refused(far: VLM) -> None:
    inputs, _ = far._pictures()
    with pytest.raises(xmi.ModelError, match="does not see its images"):
        far.engine.examine(lambda: (inputs, inputs))


def test_what_a_host_cannot_have_says_why(far: VLM) -> None:
    with pytest.raises(xmi.HookError, match=r"(?s)blocks\.0\.attn\.hook_z.*on a host.*vlm\.trace"):
        far.run_with_cache("France :", names=["blocks.0.attn.hook_z"])
    with pytest.raises(xmi.HookError, match="nonsense"):
        far.run_with_cache("France :", names=["nonsense"])
    zero = [("blocks.0.hook_resid_post", lambda value, hook: value * 0)]
    with pytest.raises(xmi.HookError, match=r"vlm\.trace"):
        far.run_with_hooks("France :", fwd_hooks=zero)
    with pytest.raises(xmi.HookError, match=r"vlm\.trace"), far.hooks(zero):
        pytest.fail("hooks were set")
    with pytest.raises(xmi.HookError, match=r"vlm\.trace"), far.steer(vectors()["text"], 1):
        pytest.fail("hooks were set")
    with pytest.raises(xmi.ModelError, match=r"TunedLens\.load"):
        far.tune_lens(TEXT)
    with pytest.raises(xmi.SlotError, match=r"no slot .query"):
        far.task_vector(TEXT, slot="query.inptu")
    with pytest.raises(xmi.VectorError, match="mode"):
        transfer("text", mode="nonsense")(far)


@pytest.mark.parametrize(
    "given", [{"device": "cpu"}, {"dtype": "float32"}, {"device_map": "auto"}, {"quantization": "8bit"}], ids=str
)
def test_what_the_host_decides_is_refused(server: Loopback, given: dict[str, Any]) -> None:
    before = requests(server)
    with pytest.raises(xmi.ModelError, match=f"{next(iter(given))}: the host .*decides that"):
        xmi.load("organism", remote=server.url, **given)
    assert requests(server) == before


def test_what_no_host_serves_is_refused(server: Loopback, near: VLM, tmp_path: Path) -> None:
    before = requests(server)
    with pytest.raises(xmi.ModelError, match="Hub id"):
        xmi.load(near.model, remote=server.url, processor=near.encoder.processor)
    with pytest.raises(xmi.ModelError, match="untrained"):
        untrained("organism", remote=server.url)
    with pytest.raises(xmi.RemoteError, match=r"(?s)xmi/organism-control.*xmi/organism"):
        xmi.load("organism-control", remote=server.url)
    folder = tmp_path / "copy"
    folder.symlink_to(EMBEDDED["xmi/organism"])
    with pytest.raises(xmi.RemoteError, match="Load the model by its Hub id"):
        xmi.load(folder, remote=server.url)
    assert requests(server) == before


def test_a_host_that_does_not_let_us_in(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    before = requests(server)
    with pytest.raises(xmi.RemoteError, match="does not answer"):
        xmi.load("organism", remote="http://127.0.0.1:9")
    with pytest.raises(xmi.RemoteError, match="address"):
        xmi.load("organism", remote="ftp://127.0.0.1")
    monkeypatch.setenv("NDIF_API_KEY", wrong := "wrong-key-9876543210")
    with pytest.raises(xmi.RemoteError, match="API key") as caught:
        xmi.load("organism", remote=server.url)
    assert wrong not in "".join(traceback.format_exception(caught.value))
    monkeypatch.delenv("NDIF_API_KEY")
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(xmi.RemoteError, match="set NDIF_API_KEY"):
        xmi.load("organism", remote=server.url)
    assert requests(server) == before


def test_half_precision_is_the_hosts(far: VLM) -> None:
    """The same operations in the same precision; what is written is cast where it is written."""
    with Loopback({"xmi/organism": EMBEDDED["xmi/organism"]}, dtype="bfloat16") as server:
        there, here = xmi.load("organism", remote=server.url), xmi.load("organism", device="cpu", dtype="bfloat16")
        assert there.engine.dtype == torch.bfloat16
        one, two = (vlm.task_vector(IMAGE) for vlm in (here, there))
        assert one.values.dtype == two.values.dtype == torch.float32
        assert differences(one, two, atol=0.02) == [] and two.card.dtype == "bfloat16"
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # not that of an earlier test's socket
            warnings.filterwarnings("ignore", ".* was read in float32, and organism runs in bfloat16")
            sweeps = [PATCHING["images"](vlm) for vlm in (here, there)]
        assert differences(*[s.log_probability for s in sweeps], atol=0.05) == []
