"""One NDIF host over HTTP: what it says of itself, and how a job gets there and its result back.

The API key is put into a request's headers at the moment of sending and nowhere else. NDIF quotes it in what it says of
a malformed one, so the texts that a host sends are cleaned of it before anybody sees them; and httpx's own errors,
which hold the request with its headers, never leave this file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import httpx
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from pydantic import SecretStr, ValidationError

from xmi.errors import RemoteError
from xmi.remote.payload import ZSTD

PAUSES = (0.1, 0.4, 1.5)
"""Seconds before the second, third and fourth attempt at what may be asked again."""
LIMITS = httpx.Timeout(30.0, connect=10.0)
POST_LIMITS = httpx.Timeout(30.0, connect=10.0, read=300.0)  # the host stores the payload before it answers
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
        self._client = httpx.Client(timeout=LIMITS)

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
        """A text without the API key."""
        key = self._key.get_secret_value()
        return text.replace(key, "(API key)") if key else text

    def reachable(self) -> bool:
        """Returns whether the host answers."""
        try:
            return self._get(f"{self.url}/ping").is_success
        except Away:
            return False

    def env(self) -> dict[str, Any]:
        """Returns the host's `python_version` and `packages` (version by name).

        Raises:
            RemoteError: It cannot be asked, or does not say.
        """
        return self._ask("/env")

    def status(self) -> dict[str, Any]:
        """Returns the host's `deployments`, each with `model_key`, `deployment_level` and `application_state`.

        Raises:
            RemoteError: It cannot be asked, or does not say.
        """
        return self._ask("/status")

    def whoami(self) -> dict[str, Any]:
        """Returns whose API key it is: `email` is None for an unknown key, and on hosts that know no keys.

        Raises:
            RemoteError: It cannot be asked, or does not say.
        """
        return self._ask("/whoami")

    def submit(
        self, model_key: str, blob: bytes, *, on_sent: Callable[[], None], env: Mapping[str, Any] | None = None
    ) -> ResponseModel:
        """Sends a job; it runs without anybody listening, and its status is asked for with `look`.

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
        request = RequestModel(model_key=model_key, compress=blob[:4] == ZSTD, env=dict(env or {}))
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

        def send() -> httpx.Response:
            # A connection of its own: one that was kept open may break just when it is used again.
            with httpx.Client(timeout=POST_LIMITS) as client:
                body = _telling(form, on_sent)
                return client.post(form.url, content=body, headers=headers, auth=_Key(self._key))

        answer = self._try(send, again=lambda error: isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))
        if not answer.is_success:
            raise self._refusal(answer, "the job")
        return self._response(answer)

    def look(self, job_id: str) -> ResponseModel | None:
        """Returns a job's last status, or None if the host has none for it (yet).

        Raises:
            RemoteError: It cannot be asked, refuses, or its answer cannot be read.
        """
        answer = self._get(f"{self.url}/response/{job_id}", auth=_Key(self._key))
        if answer.status_code == 404:
            return None
        if not answer.is_success:
            raise self._refusal(answer, f"the status of job {job_id}")
        return self._response(answer)

    def fetch(self, url: str) -> bytes:
        """Returns a result's bytes from the address that the status of a finished job gives.

        Raises:
            Refused: The result is not there (any more).
            RemoteError: It cannot be fetched.
        """
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https"):
            raise RemoteError(f"{self.url} gives no address for its result.")
        answer = self._get(str(address))  # signed, and often another machine's: no key
        if not answer.is_success:
            raise Refused(
                f"{self.url} does not give the result (HTTP {answer.status_code}): results are kept for about an hour "
                "after a job has ended.",
                answer.status_code,
            )
        return answer.content

    def _cleaned(self, value: Any) -> Any:
        """Nested JSON without the API key."""
        if isinstance(value, dict):
            return {self.clean(key): self._cleaned(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._cleaned(part) for part in value]
        return self.clean(value) if isinstance(value, str) else value

    def _ask(self, path: str) -> dict[str, Any]:
        answer = self._get(f"{self.url}{path}", auth=_Key(self._key))
        if not answer.is_success:
            raise self._refusal(answer, path)
        try:
            found = json.loads(answer.text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RemoteError(f"{self.url}{path} does not answer as an NDIF host does. Is the address right?")
        return found

    def _response(self, answer: httpx.Response) -> ResponseModel:
        try:
            found = ResponseModel.model_validate_json(answer.text)
            return found.model_copy(
                update={"description": self.clean(found.description), "meta": self._cleaned(found.meta)}
            )
        except ValidationError:
            pass
        raise RemoteError(
            f"{self.url} does not answer as an NDIF host does: {self.clean(answer.text)[:200]!r}. Is the address right?"
        )

    def _get(self, url: str, auth: httpx.Auth | None = None) -> httpx.Response:
        answer = self._try(
            lambda: self._client.get(url, auth=auth), again=lambda error: isinstance(error, httpx.TransportError)
        )
        for pause in PAUSES:
            if answer.status_code < 500:
                return answer
            time.sleep(pause)
            answer = self._try(lambda: self._client.get(url, auth=auth), again=lambda error: False)
        if answer.status_code >= 500:
            raise Away(f"{self._refusal(answer, 'an answer')}")
        return answer

    def _try(self, send: Callable[[], httpx.Response], again: Callable[[httpx.HTTPError], bool]) -> httpx.Response:
        """Sends, and sends again after a pause where that is allowed."""
        for pause in (*PAUSES, None):
            try:
                return send()
            except httpx.HTTPError as error:
                found, repeat = f"{type(error).__name__}: {self.clean(str(error))}", again(error)
            if pause is None or not repeat:
                break
            time.sleep(pause)
        # Raised outside of the handler: httpx's error holds the request, and that the key.
        raise Away(f"{self.url} cannot be reached ({found}). Check the address, the connection, and that it is up.")

    def _refusal(self, answer: httpx.Response, what: str) -> Refused:
        try:
            body = json.loads(answer.text)
            said = body.get("detail", body) if isinstance(body, dict) else body
        except ValueError:
            said = answer.text
        said = self.clean(said if isinstance(said, str) else json.dumps(said)).strip()[:SHOWN]
        advice = _ADVICE.get(answer.status_code, "")
        if answer.status_code in (401, 403):
            advice = (
                "Check the API key: NDIF_API_KEY, or what `nnsight login` stored."
                if self.has_key
                else "There is no API key: set NDIF_API_KEY, or run `nnsight login`."
            )
        return Refused(
            f"{self.url} refuses {what} (HTTP {answer.status_code}): {said} {advice}".strip(), answer.status_code
        )


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


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.userinfo:
        raise RemoteError("The host's address holds a user name or password; give it without.")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        shown = str(url).partition("?")[0]  # behind it may be a secret
        raise RemoteError(f"{shown!r} is no host's address: give https://... or http://... with nothing behind it.")
    return str(parsed).rstrip("/")


def _usable(key: str) -> str:
    stripped = key.strip()
    if not (stripped.isascii() and stripped.isprintable() and " " not in stripped):
        raise RemoteError("The API key holds blanks or characters that no key has (it is not shown). Copy it again.")
    return stripped
