"""One NDIF host over HTTP: what it says of itself, and how a job gets there and its result back.

The API key is put into a request's headers at the moment of sending and nowhere else, and goes to the configured host
alone. NDIF quotes it in what it says of a malformed one, so the texts that a host sends are cleaned of it before they
are seen; and httpx's own errors, which hold the request with its headers, never leave this file. What comes back is
bounded by `exchange` and checked by `incoming`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib.metadata import version
from typing import Any, TypeVar

import httpx
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from pydantic import SecretStr

from xmi.errors import RemoteError
from xmi.remote import incoming
from xmi.remote.exchange import Answer, TooLarge, client, left, send, within
from xmi.remote.incoming import Deployments, Environment, Identity, Reply, checked_id, parse, plain, read, without

PAUSES = (0.1, 0.4, 1.5)
"""Seconds before the second, third and fourth attempt at what may be asked again."""
LIMITS = httpx.Timeout(30.0, connect=10.0)
POST_LIMITS = httpx.Timeout(30.0, connect=10.0, read=300.0)  # the host stores the payload before it answers
POST_SECONDS, SLOWEST = 600.0, 20_000
"""What sending a job may take: some seconds, and one more for so many bytes."""
_M = TypeVar("_M", Deployments, Environment, Identity)
SHOWN = 2000  # characters of what a host says that a message shows


class Away(RemoteError):
    """A host that cannot be reached, or whose answer did not arrive."""


class Refused(RemoteError):
    """A host's answer that says no.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        """Takes the message and the HTTP status."""
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with the status."""
        return type(self), (str(self), self.status)

    @property
    def no_job(self) -> bool:
        """Whether it is sure that a refused request did not become a job: a gateway's 502 or 504 leaves it open."""
        return self.status < 500 or self.status == 503


class _Key(httpx.Auth):
    """Puts the API key into a request when it is sent."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._key:
            request.headers["ndif-api-key"] = self._key.get_secret_value()
        yield request


class Host:
    """The HTTP client of one host.

    Attributes:
        url: Its address.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        """Takes an address and an API key; nothing is sent yet.

        Args:
            url: `https://...` or `http://...`.
            key: The API key; by default that of the environment variable `NDIF_API_KEY`, or of nnsight's configuration
                (`nnsight login`). It is neither shown nor pickled with this object.

        Raises:
            RemoteError: The address or the key cannot be one.
        """
        self.url = _address(url)
        self._key = SecretStr(_usable(key or os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or ""))
        self._client = client(LIMITS)

    def __repr__(self) -> str:
        """Returns the address."""
        return f"Host({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without the key: another process takes it from its own environment."""
        return Host, (self.url,)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    @property
    def has_key(self) -> bool:
        """Whether there is an API key."""
        return bool(self._key)

    def clean(self, text: str) -> str:
        """A text without the API key, and without characters that steer a terminal."""
        return plain(without(self._key.get_secret_value(), text))

    def reachable(self) -> bool:
        """Returns whether the host answers."""
        try:
            return self._get(f"{self.url}/ping").is_success
        except Away:
            return False

    def env(self) -> Environment:
        """Returns the host's Python and the versions of the packages that matter.

        Raises:
            RemoteError: It cannot be asked, or does not say.
        """
        return self._ask("/env", Environment)

    def status(self) -> Deployments:
        """Returns the host's deployments.

        Raises:
            RemoteError: It cannot be asked, or does not say.
        """
        return self._ask("/status", Deployments)

    def whoami(self) -> Identity:
        """Returns whose API key it is: `email` is None for an unknown key, and on hosts that know no keys.

        Raises:
            RemoteError: It cannot be asked, or does not say.
        """
        return self._ask("/whoami", Identity)

    def submit(
        self, model_key: str, blob: bytes, *, on_sent: Callable[[], None], env: Mapping[str, Any] | None = None
    ) -> Reply:
        """Sends a job; it runs without anyone listening, and its status is asked for with `look`.

        Nothing is sent twice: only a connection that was never made is tried again.

        Args:
            model_key: The model's key.
            blob: The payload.
            on_sent: Called just before the last bytes leave: until then the job cannot have reached the host whole.
            env: What nnsight has the host apply to the model beforehand.

        Returns:
            The first status, with the job's id.

        Raises:
            Refused: The host's answer says no.
            Away: There was no connection, or it broke; whether `on_sent` was called says if there may be a job.
            RemoteError: The answer cannot be read.
        """
        request = RequestModel(model_key=model_key, compress=blob[:4] == incoming.ZSTD, env=dict(env or {}))
        form = httpx.Request(
            "POST",
            f"{self.url}/request",
            data={"data": request.metadata()},
            files={"blob": ("request", blob, "application/octet-stream")},
        )
        headers = {
            "Content-Type": form.headers["Content-Type"],
            "Content-Length": form.headers["Content-Length"],
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }

        def post() -> Answer:
            # A connection of its own: one that was kept open may break just when it is used again.
            with client(POST_LIMITS) as fresh:
                request = fresh.build_request("POST", form.url, content=_telling(form, on_sent), headers=headers)
                return send(fresh, request, _Key(self._key), incoming.ANSWER_BYTES)

        with within(POST_SECONDS + len(blob) / SLOWEST, self.clean):
            answer = self._try(post, again=lambda error: isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
        if not answer.is_success:
            raise self._refusal(answer, "the job")
        return self._reply(answer, "/request")

    def look(self, job_id: str) -> Reply | None:
        """Returns a job's last status, or None if the host has none for it (yet).

        Raises:
            RemoteError: It cannot be asked, refuses, its answer cannot be read, or is about another job.
        """
        path = f"/response/{checked_id(job_id, self.url)}"
        answer = self._get(f"{self.url}{path}", auth=_Key(self._key))
        if answer.status == 404:
            return None
        if not answer.is_success:
            raise self._refusal(answer, f"the status of job {job_id}")
        reply = self._reply(answer, path)
        if reply.id != job_id:
            raise RemoteError(f"{self.url} was asked for job {job_id} and answers for another one, {reply.id}.")
        return reply

    def fetch(self, url: str, limit: int | None = None, seconds: float = incoming.ANSWER_SECONDS) -> bytes:
        """Returns a result's bytes from the address that the status of a finished job gives.

        Args:
            url: The address.
            limit: Bytes that it may have; by default `incoming.result_bytes()`.
            seconds: How long it may take.

        Raises:
            Refused: The result is not there (any more).
            RemoteError: It cannot be fetched, or is larger.
        """
        # Signed, and often another machine's: no key.
        address = self._result(url)
        answer = self._get(address, limit=incoming.result_bytes() if limit is None else limit, seconds=seconds)
        if not answer.is_success:
            raise Refused(
                f"{self.url} does not give the result (HTTP {answer.status}): results are kept for about an hour "
                "after a job has ended.",
                answer.status,
            )
        return answer.content

    def _result(self, url: str) -> str:
        """The address of a result, if it may be one: a host cannot send us into our own network, or off TLS."""
        try:
            address = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host or address.userinfo:
            raise RemoteError(f"{self.url} gives no address for its result.")
        own = httpx.URL(self.url)
        if own.scheme == "https" and address.scheme == "http":
            raise RemoteError(f"{self.url} gives an address for its result that is not encrypted (http://).")
        if _inside(address.host) and not _inside(own.host):
            raise RemoteError(f"{self.url} gives an address in this machine's own network for its result.")
        return str(address)

    def _ask(self, path: str, kind: type[_M]) -> _M:
        answer = self._get(f"{self.url}{path}", auth=_Key(self._key))
        if not answer.is_success:
            raise self._refusal(answer, path)
        where = f"{self.url}{path}"
        return read(kind, self._parsed(answer, where), where, self.clean)

    def _reply(self, answer: Answer, path: str) -> Reply:
        where = f"{self.url}{path}"
        return read(Reply, self._parsed(answer, where), where, self.clean)

    def _parsed(self, answer: Answer, where: str) -> Any:
        try:
            return parse(answer.content, where)
        except RemoteError as error:
            found = self.clean(answer.content[:SHOWN].decode(errors="replace"))[: SHOWN // 10]
            raise RemoteError(
                f"{where} does not answer as an NDIF host does: {found!r}. {error} Is the address right?"
            ) from None

    def _get(
        self, url: str, auth: httpx.Auth | None = None, limit: int | None = None, seconds: float | None = None
    ) -> Answer:
        most = incoming.ANSWER_BYTES if limit is None else limit

        def get() -> Answer:
            return send(self._client, self._client.build_request("GET", url), auth, most)

        with within(incoming.ANSWER_SECONDS if seconds is None else seconds, self.clean):
            answer = self._try(get, again=lambda error: isinstance(error, httpx.TransportError))
            for pause in PAUSES:
                if answer.status < 500 or left() <= pause:
                    break
                time.sleep(pause)
                answer = self._try(get, again=lambda error: False)
        if answer.status >= 500:
            raise Away(f"{self._refusal(answer, 'an answer')}")
        return answer

    def _try(self, get: Callable[[], Answer], again: Callable[[httpx.HTTPError], bool]) -> Answer:
        """Sends, and sends again after a pause where that is allowed."""
        for pause in (*PAUSES, None):
            try:
                return get()
            except httpx.HTTPError as error:
                found, repeat = f"{type(error).__name__}: {self.clean(str(error))}", again(error)
            except TooLarge as error:
                found, repeat = str(error), None
            if pause is None or not repeat or left() <= pause:
                break
            time.sleep(pause)
        # Raised outside of the handler: httpx's error holds the request, and that the key.
        if repeat is None:
            raise RemoteError(f"{self.url} gives an answer that {found}; it was not read.")
        raise Away(f"{self.url} cannot be reached ({found}). Check the address, the connection, and that it is up.")

    def _refusal(self, answer: Answer, what: str) -> Refused:
        try:
            body = parse(answer.content, "")
            said = body.get("detail", body) if isinstance(body, dict) else body
        except RemoteError:
            said = answer.content.decode(errors="replace")
        said = self.clean(said if isinstance(said, str) else json.dumps(said)).strip()[:SHOWN]
        advice = _ADVICE.get(answer.status, "")
        if answer.status in (401, 403):
            advice = (
                "Check the API key: NDIF_API_KEY, or what `nnsight login` stored."
                if self.has_key
                else "There is no API key: set NDIF_API_KEY, or run `nnsight login`."
            )
        return Refused(f"{self.url} refuses {what} (HTTP {answer.status}): {said} {advice}".strip(), answer.status)


_ADVICE = {
    400: "Bring the versions here and there together (`xmi remote status` compares them).",
    404: "Is this the address of an NDIF host?",
    413: "Ask less at once: fewer prompts, shots or layers.",
    429: "Too many requests: try again later.",
    503: "It is busy or restarting: try again in a few minutes.",
}


def _telling(form: httpx.Request, on_sent: Callable[[], None]) -> Iterator[bytes]:
    """A form's body, holding its last bytes back until that has been told."""
    held = b""
    for part in form.stream:  # type: ignore[union-attr]
        if part:
            if held:
                yield held
            held = part
    on_sent()
    yield held


def _inside(host: str) -> bool:
    """Whether a name is this machine's, or an address of its own network."""
    try:
        number = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost")
    return not number.is_global


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.userinfo:
        raise RemoteError("The host's address holds a user name or password; give it without.")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        shown = str(url).partition("?")[0]  # behind it may be a secret
        raise RemoteError(
            f"{shown!r} is not the address of a host: give https://... or http://... with nothing after it."
        )
    return str(parsed).rstrip("/")


def _usable(key: str) -> str:
    stripped = key.strip()
    if not (stripped.isascii() and stripped.isprintable() and " " not in stripped):
        raise RemoteError("The API key holds blanks or characters that no key has (it is not shown). Copy it again.")
    return stripped
