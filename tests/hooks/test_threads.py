"""Threads that share a model get what one thread gets, bit for bit, whatever the others do meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import xmi
from tests.zoo.family import build
from tests.zoo.models import llama, llava
from tests.zoo.oracle import plain, prompts_for
from xmi.model import guard as guard_module
from xmi.prompt import Prompts
from xmi.vector import TaskVector, VectorCard, versions
from xmi.vlm import VLM

pytestmark = pytest.mark.filterwarnings("ignore:Attention patterns exist only")


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Threads take turns after every few steps of Python, so that a race is lost rather than seldom seen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def seeing() -> VLM:
    model, tool = build(llava)
    return xmi.load(model, processor=tool)


@pytest.fixture(scope="module")
def text() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool)


def at_once(calls: Sequence[Callable[[], Any]], threads: int = 4) -> list[Any]:
    """What calls give that several threads make, all at once."""
    ready = threading.Barrier(threads)

    def work(mine: Sequence[Callable[[], Any]]) -> list[Any]:
        ready.wait()
        return [call() for call in mine]

    with ThreadPoolExecutor(threads) as pool:
        shares = list(pool.map(work, [calls[i::threads] for i in range(threads)]))
    found: list[Any] = [None] * len(calls)
    for i, share in enumerate(shares):
        found[i::threads] = share
    return found


def double(value: torch.Tensor, hook: xmi.Hook) -> torch.Tensor:
    return value * 2


def cached(vlm: VLM, prompts: Any, **options: Any) -> Callable[[], dict[str, torch.Tensor]]:
    def call() -> dict[str, torch.Tensor]:
        logits, cache = vlm.run_with_cache(prompts, **options)
        return {"logits": logits, **cache.activations}

    return call


def hooked(vlm: VLM, prompts: Any) -> Callable[[], dict[str, torch.Tensor]]:
    def call() -> dict[str, torch.Tensor]:
        with vlm.hooks([("blocks.1.hook_resid_post", double)]):
            return cached(vlm, prompts, names="resid_post")()

    return call


def generated(vlm: VLM, prompts: Any) -> Callable[[], dict[str, torch.Tensor]]:
    return lambda: {"ids": vlm.generate(prompts, max_new_tokens=3).ids}


def traced(vlm: VLM, prompts: Any) -> Callable[[], dict[str, torch.Tensor]]:
    def call() -> dict[str, torch.Tensor]:
        with vlm.trace(prompts):
            vlm.resid_post[1][:, -1] = 0
            found = vlm.resid_post[2].save()
        return {"resid_post": found}

    return call


def jobs(vlm: VLM, count: int) -> list[Callable[[], dict[str, torch.Tensor]]]:
    """Calls of every kind: images and none, both sides of padding, all lengths, patterns, hooks, traces, generation."""
    few, many = prompts_for("none"), prompts_for("many")
    makers: list[Callable[[], dict[str, torch.Tensor]]] = [
        cached(vlm, few[:1], names=["resid_post", "z"]),
        cached(vlm, many, positions="last"),
        cached(vlm, few, names="pattern"),
        cached(vlm, many[1:], padding_side="right", names="resid_mid"),
        hooked(vlm, few[1:]),
        cached(vlm, few, padding_side="right", names="resid_post"),
        generated(vlm, many[:2]),
        traced(vlm, few),
    ]
    return [makers[i % len(makers)] for i in range(count)]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.fault("A2")
def test_calls_of_every_kind_from_four_threads(seeing: VLM) -> None:
    calls = jobs(seeing, 160)
    expected = [call() for call in calls[:8]]
    found = at_once(calls)
    wrong = [i for i, result in enumerate(found) if not same(result, expected[i % 8])]
    assert not wrong, f"{len(wrong)} of {len(found)} differ"
    assert seeing.engine.attention == "sdpa"


def vectors(vlm: VLM, prompts: Prompts) -> dict[str, TaskVector]:
    values = torch.randn(3, vlm.backbone.n_layers, vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    card = VectorCard(
        model="x", revision="x", dtype="float32", task="capital", specification="random", shots=0, seed=0, n=1,
        slot="last", template=prompts.template.hash, versions=versions(),
    )  # fmt: skip
    return {f"v{i}": TaskVector(value * 3, card) for i, value in enumerate(values)}


@pytest.mark.fault("E1", "A2")
def test_transfers_from_two_threads(seeing: VLM) -> None:
    """On a model that has proven no way of sweeping yet, and on one that has."""
    given = [prompts_for("none"), prompts_for("many")]
    named = vectors(seeing, given[0])

    def transfer(vlm: VLM, number: int) -> Callable[[], Any]:
        new = (None, 2)[number // 2 % 2]
        return lambda: vlm.transfer(named, to=given[number % 2], max_new_tokens=new)

    model, tool = build(llava)
    alone = xmi.load(model, processor=tool)
    expected = [transfer(alone, i)().to_frame() for i in range(4)]
    found = at_once([transfer(seeing, i) for i in range(20)], threads=2)
    for i, result in enumerate(found):
        assert result.to_frame().equals(expected[i % 4]), i
    assert seeing.engine.ways == alone.engine.ways


def test_other_verbs_meanwhile(seeing: VLM) -> None:
    prompts = prompts_for("many")
    calls: list[Callable[[], Any]] = [
        lambda: seeing.residuals(prompts).values,
        lambda: torch.from_numpy(seeing.phases(prompts).probability),
        lambda: torch.from_numpy(seeing.answers(prompts, max_new_tokens=2).log_probability),
        lambda: seeing.run_with_cache(prompts, names="pattern")[1].stack("pattern"),
    ] * 4
    expected = [call() for call in calls[:4]]
    assert all(torch.equal(value, expected[i % 4]) for i, value in enumerate(at_once(calls)))


@pytest.mark.fault("A2")
def test_hooks_act_for_who_set_them_alone(text: VLM) -> None:
    """The block waits for the other thread, which sets hooks of its own, traces, and calls the bare model."""
    prompts = prompts_for("none")
    batch = text.encode(prompts)
    bare, states = plain(text, batch)
    mine = text.run_with_hooks(prompts, fwd_hooks=[("blocks.1.hook_resid_post", double)])
    other = text.run_with_hooks(prompts, fwd_hooks=[("blocks.2.hook_resid_post", double)])

    def elsewhere() -> tuple[torch.Tensor, ...]:
        hooks = text.run_with_hooks(prompts, fwd_hooks=[("blocks.2.hook_resid_post", double)])
        return text.run_with_cache(prompts)[0], plain(text, batch)[0], hooks, text.residuals(prompts).values

    with text.hooks([("blocks.1.hook_resid_post", double)]), ThreadPoolExecutor(1) as pool:
        run, raw, hooks, residuals = pool.submit(elsewhere).result(timeout=60)
        here = text.run_with_cache(prompts)[0]
        called = plain(text, batch)[0]
        with pytest.raises(xmi.HookError, match="nnsight trace"):
            text.residuals(prompts)
        with pytest.raises(xmi.HookError, match="nnsight trace"):
            text.transfer(vectors(text, prompts), to=prompts)
    assert torch.equal(run, bare) and torch.equal(raw, bare)
    assert torch.equal(hooks, other)
    assert torch.equal(residuals, torch.stack([state[:, -1] for state in states], 1))
    assert torch.equal(here, mine) and torch.equal(called, mine)
    assert torch.equal(text.run_with_cache(prompts)[0], bare)


def test_eager_attention_is_for_the_forwards_of_its_block(text: VLM) -> None:
    prompts = prompts_for("none")
    batch = text.encode(prompts)
    seen: list[torch.Tensor] = []
    bare, eager = plain(text, batch)[0], text.run_with_cache(prompts, names="pattern")[0]
    assert not torch.equal(bare, eager), "the two implementations must differ, or nothing is tested"
    with text.hooks([("pattern", lambda value, hook: seen.append(value))]), ThreadPoolExecutor(1) as pool:
        assert text.engine.attention == "sdpa"
        assert torch.equal(pool.submit(lambda: text.run_with_cache(prompts)[0]).result(timeout=60), bare)
        assert not seen
        assert torch.equal(text.run_with_cache(prompts)[0], eager)
        assert torch.equal(plain(text, batch)[0], eager)
        text.generate(prompts, max_new_tokens=2)
    assert len(seen) == 4 * 4
    assert text.engine.attention == "sdpa"


@pytest.mark.fault("A2")
def test_asyncio_hands_hooks_to_its_threads_and_to_no_other_task(text: VLM) -> None:
    prompts = prompts_for("none")
    bare = text.run_with_cache(prompts)[0]
    mine = text.run_with_hooks(prompts, fwd_hooks=[("blocks.1.hook_resid_post", double)])

    async def both() -> list[torch.Tensor]:
        opened, closed = asyncio.Event(), asyncio.Event()

        async def with_hooks() -> torch.Tensor:
            with text.hooks([("blocks.1.hook_resid_post", double)]):
                opened.set()
                await closed.wait()
                return (await asyncio.to_thread(text.run_with_cache, prompts))[0]

        async def without() -> torch.Tensor:
            await opened.wait()
            found = await asyncio.gather(*(asyncio.to_thread(text.run_with_cache, prompts) for _ in range(8)))
            closed.set()
            assert all(torch.equal(one[0], found[0][0]) for one in found)
            return found[0][0]

        return list(await asyncio.gather(with_hooks(), without()))

    one, two = asyncio.run(both())
    assert torch.equal(one, mine)
    assert torch.equal(two, bare)


def test_blocks_may_close_in_any_order_and_anywhere(text: VLM) -> None:
    prompts = prompts_for("none")
    bare = text.run_with_cache(prompts)[0]
    doubled = text.run_with_hooks(prompts, fwd_hooks=[("blocks.2.hook_resid_post", double)])
    first, second = (text.hooks([(f"blocks.{i}.hook_resid_post", double)]) for i in (1, 2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(text.run_with_cache(prompts)[0], doubled)
    # Closed from another context, the block is over here, too.
    contextvars.Context().run(second.__exit__, None, None, None)
    assert torch.equal(text.run_with_cache(prompts)[0], bare)
    text.residuals(prompts)


def test_two_models_around_one_module_and_one_tokenizer() -> None:
    model, tool = build(llava)
    one, two = (xmi.load(model, processor=tool) for _ in range(2))
    other, _ = build(llava)
    three = xmi.load(other, processor=tool)
    assert one.guard is two.guard and one.guard is not three.guard
    assert one.encoder.guard is three.encoder.guard
    calls = [call for trio in zip(jobs(one, 24), jobs(two, 24), jobs(three, 24), strict=True) for call in trio]
    expected = [call() for call in calls[:24]]
    found = at_once(calls)
    assert not [i for i, result in enumerate(found) if not same(result, expected[i % 24])]
    with one.hooks([("resid_post", double)]), pytest.raises(xmi.HookError, match="nnsight trace"):
        two.residuals(prompts_for("none"))


@pytest.mark.fault("A2")
@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.encode(prompts_for("many")),
        lambda e: e.accept({"input_ids": [[3, 4]]}),
        lambda e: e.first_token("A:", "Rome"),
        lambda e: e.first_tokens("A:", ["Rome"]),
        lambda e: e.answer_ids(list(prompts_for("none")), prompts_for("none").template),
        lambda e: e.word_ids(["Rome"], "A:"),
        lambda e: e.length("A:", "Rome"),
        lambda e: e.text([5, 6]),
        lambda e: e.decode(5),
        lambda e: e.is_whole(5),
    ],
    ids=lambda call: call.__code__.co_names[0],
)
def test_whatever_uses_the_tokenizer_waits_for_its_turn(seeing: VLM, call: Callable[[Any], Any]) -> None:
    encoder = seeing.encoder
    with ThreadPoolExecutor(1) as pool:
        with encoder.guard:
            waiting = pool.submit(call, encoder)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.03)
        waiting.result(timeout=60)


def test_a_processor_is_never_seen_without_its_tokenizer(seeing: VLM) -> None:
    tokenizer = seeing.encoder.processor.tokenizer
    prompts, stop, seen = prompts_for("many"), threading.Event(), set()

    def look() -> None:
        while not stop.is_set():
            seen.add(id(seeing.encoder.processor.tokenizer))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(10):
        seeing.encode(prompts)
    stop.set()
    thread.join()
    assert seen == {id(tokenizer)}


def test_the_bare_model_is_not_served_to_another_threads_trace(text: VLM) -> None:
    prompts, one = prompts_for("none"), prompts_for("none")[:1]
    batch, single = text.encode(prompts), text.encode(one)
    expected = traced(text, prompts)()
    bare = plain(text, single)[0]
    stop = threading.Event()

    def call() -> list[torch.Tensor]:
        found = []
        with torch.no_grad():
            while not stop.is_set():
                found.append(text.model(**single.inputs, use_cache=False).logits)
        return found

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(call)
        found = [traced(text, batch)() for _ in range(20)]
        stop.set()
    assert all(same(result, expected) for result in found)
    assert all(torch.equal(logits, bare) for logits in calls.result())


class Stop(BaseException):
    """As KeyboardInterrupt is, no Exception."""


@pytest.mark.fault("A2")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"])
def test_what_is_raised_in_a_hook_leaves_nothing_behind(text: VLM, hook: str, error: type[BaseException]) -> None:
    prompts = prompts_for("none")
    batch = text.encode(prompts)
    bare = plain(text, batch)[0]

    def fail(value: torch.Tensor, hook: xmi.Hook) -> None:
        raise error("stop")

    runs: list[Callable[[], Any]] = [
        lambda: text.run_with_hooks(prompts, fwd_hooks=[(hook, fail)]),
        lambda: text.generate(prompts),
        lambda: text.run_with_cache(prompts),
        lambda: plain(text, batch),
    ]
    for run in runs:
        with pytest.raises(error, match="stop"), text.hooks([(hook, fail)]):
            run()
        assert not text.guard.mine
        assert text.engine.attention == "sdpa"
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(lambda: plain(text, batch)[0]).result(timeout=60), bare)
            assert torch.equal(pool.submit(lambda: text.run_with_cache(prompts)[0]).result(timeout=60), bare)
        assert torch.equal(plain(text, batch)[0], bare)
        text.residuals(prompts)
    assert not torch._C._len_torch_function_stack(), "the mode that shows patterns has outlived its forward"


@pytest.mark.fault("A2")
def test_a_model_is_not_run_in_the_midst_of_its_own_forward(text: VLM) -> None:
    prompts = prompts_for("none")
    verbs: list[Callable[[], Any]] = [
        lambda: text.run_with_cache(prompts),
        lambda: text.generate(prompts),
        lambda: text.residuals(prompts),
        lambda: text.transfer(vectors(text, prompts), to=prompts),
        lambda: text.run_with_hooks(prompts, fwd_hooks=[("embed", double)]),
        text.check,
    ]
    for verb in verbs:
        with pytest.raises(
            xmi.HookError, match=r"the hook function at blocks\.1\.hook_resid_post: the same model cannot"
        ):
            text.run_with_hooks(prompts, fwd_hooks=[("blocks.1.hook_resid_post", lambda value, hook, v=verb: v())])
        with pytest.raises(xmi.HookError, match="the block of a trace: the same model cannot"), text.trace(prompts):
            text.resid_post[0] += 1
            verb()
    # The bare model may be: no hook acts on what a hook function computes, and no cache keeps it.
    batch, inner = text.encode(prompts), []

    def again(value: torch.Tensor, hook: xmi.Hook) -> None:
        inner.append(text.model(**text.encode(prompts[:1]).inputs, use_cache=False).logits)

    expected = text.run_with_cache(batch)
    with text.hooks([("blocks.1.hook_resid_post", again)]):
        found = text.run_with_cache(batch)
    assert same({**found[1].activations}, {**expected[1].activations})
    assert torch.equal(inner[0], plain(text, text.encode(prompts[:1]))[0])


def test_a_hook_that_waits_for_a_thread_that_waits_for_it(text: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "PATIENCE", 0.2)
    prompts = prompts_for("none")

    def wait(value: torch.Tensor, hook: xmi.Hook) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(text.run_with_cache, prompts).result(timeout=60)

    with pytest.raises(xmi.HookError, match=r"in the hook function at blocks\.2\.hook_resid_post for 0\.2 s"):
        text.run_with_hooks(prompts, fwd_hooks=[("blocks.2.hook_resid_post", wait)])
    assert not text.guard.mine


def test_a_long_forward_is_waited_for(text: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many short calls of a hook function none is too long."""
    monkeypatch.setattr(guard_module, "PATIENCE", 0.05)
    prompts, started = prompts_for("none"), threading.Event()

    def slow(value: torch.Tensor, hook: xmi.Hook) -> None:
        started.set()
        threading.Event().wait(0.03)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(text.run_with_hooks, prompts, fwd_hooks=[(["resid_post", "resid_pre", "resid_mid"], slow)])
        started.wait(10)
        text.run_with_cache(prompts)
        run.result(timeout=60)


def test_a_forked_process_waits_for_no_thread_of_its_parent(text: VLM) -> None:
    prompts, held, done = prompts_for("none"), threading.Event(), threading.Event()

    def hold() -> None:
        with text.guard, text.encoder.guard:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks beside threads
        child = os.fork()
    if not child:
        try:
            text.run_with_cache(prompts, names="embed")
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.fault("A2")
def test_what_is_found_once_is_found_once() -> None:
    """The report, the encoder and nnsight's model of a model that nobody has used yet."""
    model, tool = build(llava)
    vlm = xmi.load(model, processor=tool, check=False)
    looks: list[Callable[[], Any]] = [lambda: vlm.report, lambda: vlm.encoder, lambda: vlm.engine.envoy] * 4
    found = at_once(looks)
    assert all(value is found[i % 3] for i, value in enumerate(found))


def test_models_load_in_several_threads() -> None:
    found = at_once([lambda: xmi.load("organism", check=False)] * 4)
    states = [vlm.model.state_dict() for vlm in found]
    assert all(value.dtype == torch.float32 for state in states for value in state.values())
    assert all(torch.equal(state[name], value) for state in states for name, value in states[0].items())
    assert torch.get_default_dtype() == torch.float32
