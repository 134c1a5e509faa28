"""Before anything is paid for: can this host run this model's jobs, and with what?"""

from __future__ import annotations

import difflib
import tempfile
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import torch
from nnsight.modeling.transformers import TransformersModel
from nnsight.ndif import EnvComparison, get_local_env
from nnsight.util import to_import_path

from xmi.errors import RemoteError
from xmi.remote.host import Host
from xmi.remote.incoming import Facts, parse, read
from xmi.remote.jobs import Jobs
from xmi.remote.on_host import facts_kernel
from xmi.shown import Shown

Verdict = Literal["ok", "note", "wrong"]
RELEASE = {"nnsight": 2, "transformers": 1}
"""How many parts of a version must agree, or the protocol or the model's modules differ."""


@dataclass(frozen=True)
class Check(Shown):
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: `ok`, `note` (worth knowing) or `wrong` (jobs would fail).
        text: What was found, and what to do.
    """

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Preflight(Shown):
    """What a host was found to be.

    Attributes:
        host: Its address.
        model_key: The key that jobs will name, or None if the model is not served.
        checks: Everything that was looked at, in order.
        facts: What the host's own process says: versions, dtype and device (see `facts_kernel`); versions alone without
            a smoke trace.
    """

    host: str
    model_key: str | None
    checks: tuple[Check, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found that would make jobs fail."""
        return all(check.verdict != "wrong" for check in self.checks)

    def lines(self) -> list[str]:
        """Returns one line per check."""
        marks = {"ok": "ok  ", "note": "note", "wrong": "FAIL"}
        width = max(len(check.name) for check in self.checks)
        return [f"{marks[check.verdict]}  {check.name:{width}}  {check.text}" for check in self.checks]


def preflight(host: Host, model: str, envoy: Any = None, *, wait: float = 120.0) -> Preflight:
    """Looks at a host before jobs are sent to it.

    Args:
        host: The host.
        model: The model's key, or its Hub id.
        envoy: nnsight model; with it, a forward of one token is run as a job.
        wait: Seconds to wait for that job.

    Returns:
        What was found; nothing is raised for what is wrong.
    """
    if not host.reachable():
        text = f"{host.url} does not answer. Check the address, the connection, and that it is up."
        return Preflight(host.url, None, (Check("host", "wrong", text),))
    key, served = _served(host, model)
    facts, versions = _versions(host)
    checks = [Check("host", "ok", f"{host.url} answers"), _identity(host), served, *versions]
    if envoy is not None and served.verdict != "wrong":
        found, smoke = _smoke(host, key or model, envoy, wait)
        facts |= found
        checks.append(smoke)
        if smoke.verdict == "ok" and checks[1].verdict == "wrong":  # a host that runs jobs asks for no other key
            checks[1] = replace(checks[1], verdict="note")
    return Preflight(host.url, key, tuple(replace(check, text=host.clean(check.text)) for check in checks), facts)


def _identity(host: Host) -> Check:
    try:
        email = host.whoami().email
    except RemoteError as error:
        return Check("API key", "note", f"the host does not say whose it is: {error}")
    if email:
        return Check("API key", "ok", f"belongs to {email}")
    if not host.has_key:
        return Check("API key", "wrong", "there is none: set NDIF_API_KEY, or run `nnsight login`")
    return Check("API key", "wrong", "the host does not know it (or knows no keys at all)")


def _served(host: Host, model: str) -> tuple[str | None, Check]:
    """Whether a model is deployed, under exactly which key, and if not, which come close."""
    try:
        deployments = host.status().deployments or {}
    except RemoteError as error:
        return None, Check("model", "note", f"the host does not say what it serves: {error}")
    served: dict[str, list[str]] = {}
    for name, one in deployments.items():
        state = f"{one.deployment_level or '?'} {one.application_state or ''}".strip()
        served.setdefault(one.model_key or name.partition(":")[2] or name, []).append(state)
    wanted = model if ":{" in model else _exact(model, served)
    if wanted in served:
        return wanted, _state(wanted, served[wanted])
    repo = _parts(model).get("repo_id", model)
    same = [key for key in served if str(_parts(key).get("repo_id", "")).lower() == str(repo).lower()]
    if same:
        how = "; ".join(f"{_difference(model, key)} ({', '.join(served[key])})" for key in same)
        return None, Check("model", "wrong", f"{repo} is deployed, but under another key: {how}")
    ids = sorted({str(_parts(key).get("repo_id", key)) for key in served})
    close = difflib.get_close_matches(str(repo), ids, n=3, cutoff=0.5)
    hint = f"close ones are {', '.join(close)}" if close else f"{len(ids)} others are: {', '.join(ids[:8]) or 'none'}"
    return None, Check("model", "wrong", f"{repo} is not deployed; {hint}")


def _state(key: str, states: list[str]) -> Check:
    repo = _parts(key).get("repo_id", key)
    if "HOT RUNNING" in states:
        return Check("model", "ok", f"{repo} is deployed and running")
    return Check("model", "note", f"{repo} is deployed but not running ({', '.join(states)}): the first job will wait")


def _exact(repo: str, served: dict[str, list[str]]) -> str | None:
    """The key of a Hub id as xmi names it: nnsight's own class, no revision."""
    own = to_import_path(TransformersModel)
    for key in served:
        parts = _parts(key)
        if key.partition(":")[0] == own and parts.get("repo_id") == repo and parts.get("revision") is None:
            return key
    return None


def _parts(key: str) -> dict[str, Any]:
    try:
        parts = parse(key.partition(":")[2], "a model's key")
    except RemoteError:
        parts = None
    return {"class": key.partition(":")[0], **parts} if isinstance(parts, dict) else {}


def _difference(wanted: str, found: str) -> str:
    """How a deployed key differs from the wanted one."""
    ours, theirs = _parts(wanted), _parts(found)
    ours = ours or {"class": to_import_path(TransformersModel), "repo_id": wanted, "revision": None}
    names = [
        name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name) and (name in ours or name != "task")
    ]
    return ", ".join(f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}" for name in names)


def _versions(host: Host) -> tuple[dict[str, Any], list[Check]]:
    """The host's versions, compared with those here by nnsight's own list of critical packages."""
    try:
        compared = EnvComparison(_here(), host.env().model_dump())
    except RemoteError as error:
        return {}, [Check("versions", "note", f"the host does not say: {error}")]
    facts, checks = {"python": compared.remote_python}, []
    for name in sorted(package for package, one in compared.packages.items() if one["critical"]):
        here, there = compared.packages[name]["local"], compared.packages[name]["remote"]
        facts[name] = there
        parts = RELEASE.get(name, 0)
        if here.split(".")[:parts] != there.split(".")[:parts]:
            text = f"{there} there, {here} here: install {name}=={'.'.join(there.split('.')[:parts])}.*"
            checks.append(Check(name, "wrong", text))
        else:
            agree = compared.packages[name]["match"]
            text = there if agree else f"{there} there, {here} here: small differences are possible"
            checks.append(Check(name, "ok" if agree else "note", text))
    # Code travels as source, so another Python is not an obstacle by itself.
    agree = compared.python_matches
    text = compared.remote_python if agree else f"{compared.remote_python} there, {compared.local_python} here"
    return facts, [*checks, Check("python", "ok" if agree else "note", text)]


@cache
def _here() -> dict[str, Any]:
    """The versions here; finding them takes a second."""
    found: dict[str, Any] = get_local_env()
    return found


def _smoke(host: Host, key: str, envoy: Any, wait: float) -> tuple[dict[str, Any], Check]:
    token = torch.ones(1, 1, dtype=torch.long)
    inputs = {"input_ids": token, "attention_mask": token, "use_cache": False}
    with tempfile.TemporaryDirectory() as folder:
        try:
            (found,) = Jobs(host, key, envoy, folder, wait=wait).run([(facts_kernel, (inputs,))], "smoke trace")
            facts = read(Facts, found, f"{host.url}: the smoke trace", host.clean).model_dump()
        except RemoteError as error:
            return {}, Check("smoke trace", "wrong", str(error))
    where = " ".join(filter(None, (facts["device"], facts["accelerator"])))
    if not facts.pop("finite"):
        return facts, Check("smoke trace", "wrong", f"one token on {where} gives logits that are not finite")
    return facts, Check(
        "smoke trace", "ok", f"one token in {facts['dtype']} on {where}, {facts['attention']} attention"
    )
