"""A new place where models compute is a class and a line of the registry: nothing else knows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from xmi.backend import BACKENDS, backend_for
from xmi.backend.local import LocalBackend
from xmi.errors import RemoteError
from xmi.remote import RemoteBackend
from xmi.study import dry_run

PROMPTS = ["Q:Greece\nA:", "Q:a red apple\nA:"]


class Elsewhere(LocalBackend):
    """A place that counts what it is asked, and lets nobody write into its models."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @classmethod
    def open(cls, remote: bool | str, checkpoint: Any, **_: Any) -> Elsewhere:
        return cls()

    def map(self, engine: Any, kernel: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        self.asked.append(kernel.__name__)
        return super().map(engine, kernel, arguments)

    @classmethod
    def require(cls, need: str, name: str) -> None:
        if need == "hooks":
            raise xmi.HookError(f"no hooks on {name}")

    def lines(self) -> list[str]:
        return ["runs elsewhere"]


def test_the_address_chooses_the_place() -> None:
    assert backend_for(False) is LocalBackend
    for remote in (True, "https://api.ndif.us", "http://127.0.0.1:9", "HTTPS://x"):
        assert backend_for(remote) is RemoteBackend, remote


def test_a_place_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "elsewhere", f"{__name__}:Elsewhere")
    near, far = xmi.load("organism"), xmi.load("organism", remote="elsewhere://rack")
    assert "runs elsewhere" in far.describe() and "runs elsewhere" not in near.describe()
    asked = far.engine.backend.asked  # type: ignore[attr-defined]
    assert torch.equal(far.residuals(PROMPTS).values, near.residuals(PROMPTS).values)
    assert asked == ["residual_kernel"]
    assert far.generate(PROMPTS, max_new_tokens=2).texts == near.generate(PROMPTS, max_new_tokens=2).texts
    with pytest.raises(xmi.HookError, match="no hooks on"):
        far.run_with_hooks(PROMPTS, fwd_hooks=[("blocks.0.hook_resid_post", lambda value, hook: value)])


def test_a_study_asks_the_place_what_it_can_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(BACKENDS, "elsewhere", f"{__name__}:Elsewhere")
    plan = {"model": "organism", "tasks": ["country-capital"], "sources": ["text ICL"], "prompts": 2, "seeds": [0]}
    plan |= {"controls": [], "experiments": [], "targets": ["text"], "out": tmp_path / "run"}
    said = dry_run(**plan, remote="elsewhere://rack", device="cpu", workers=2)
    assert " forwards, " in said.splitlines()[-1], "it has weights here, so that nothing is sent"
    with pytest.raises(xmi.ModelError, match=r"device: the host .* decides that"):
        dry_run(**plan, remote="http://127.0.0.1:9", device="cpu")


def test_a_model_without_weights_refuses_to_load_them_in_a_trace() -> None:
    bare = xmi.load("organism", device="meta")
    with pytest.raises(xmi.ModelError, match="can be inspected"):
        bare.residuals(PROMPTS)
    with pytest.raises(xmi.ModelError, match="would load them here"), bare.engine.envoy.trace("France :"):
        bare.engine.envoy.output.save()


@pytest.mark.parametrize("remote", ["ftp://me:secret@host", "ndif", "me:secret@localhost:5000?key=secret", "://host"])
def test_an_address_of_an_unknown_scheme_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, remote: str
) -> None:
    monkeypatch.setitem(BACKENDS, "elsewhere", f"{__name__}:Elsewhere")
    known = r"is not the address of a host: it begins with none of http://, https://, elsewhere://\. Give"
    with pytest.raises(RemoteError, match=known) as caught:
        xmi.load("no/such-model", remote=remote)
    assert "secret" not in str(caught.value)
