"""The paths that the server answers."""

from __future__ import annotations

import collections
import json
import os
import socket
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from nnsight.ndif import get_local_env
from nnsight.schema.request import RequestModel
from nnsight.schema.response import Status
from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from serving.faults import Faults, Switchboard
from serving.ledger import Ledger
from serving.models import Models
from serving.websocket import Sockets

if TYPE_CHECKING:
    from serving.worker import Worker

KEY = "ndif-api-key"


class Refusal(Exception):
    """An answer other than 200, with the reason a client is told."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Server(ThreadingHTTPServer):
    """Listens on loopback, one thread per connection."""

    daemon_threads = True
    worker: Worker

    def __init__(
        self,
        port: int,
        ledger: Ledger,
        models: Models,
        faults: Switchboard,
        api_key: str | None,
        min_nnsight: str | None,
        hidden: Sequence[str] = (),
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.ledger, self.models, self.faults, self.sockets = ledger, models, faults, Sockets()
        self.api_key, self.min_nnsight, self.hidden = api_key, min_nnsight, hidden
        self.seen: collections.Counter[str] = collections.Counter()
        self.headers: dict[str, str] = {}

    def env(self) -> dict[str, Any]:
        """Python and packages, as installed or as the test would have them."""
        found = get_local_env()
        installed = {n: v for n, v in found["packages"].items() if n not in self.hidden and v != "local"}
        claimed = dict(self.faults.now.versions)
        version = claimed.pop("python", found["python_version"])
        return {"python_version": version, "packages": installed | claimed}

    def stats(self) -> dict[str, Any]:
        """What a test may count.

        `requests`, `executed` and `jobs` outlive a kill where there is a state folder; the rest counts from the start:
        `seen` every request by method and path, answered or not, and `headers` the last value of each, never the key.
        """
        jobs = list(self.ledger.jobs.values())
        shown = [job.model_dump(include={"id", "sha256", "payload_bytes", "result_bytes", "runs"}) for job in jobs]
        return {
            "pid": os.getpid(),
            "requests": len(jobs),
            "executed": sum(job.runs for job in jobs),
            "jobs": [{**one, "status": job.response.status} for one, job in zip(shown, jobs, strict=True)],
            "seen": dict(self.seen),
            "headers": dict(self.headers),
        }


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    def answer(self, body: bytes) -> None:
        """Finds what a path means and sends it, or the refusal as FastAPI words it."""
        kind = "/" + self.path.split("/")[1]
        if kind != "/_test":
            self.server.seen[f"{self.command} {kind}"] += 1
            self.server.headers |= {n.lower(): "present" if n.lower() == KEY else v for n, v in self.headers.items()}
        try:
            if kind != "/_test" and (rejected := self.server.faults.take_reject(self.path)):
                raise Refusal(rejected.status, rejected.detail)
            match self.command, kind:
                case "POST", "/request":
                    self.request_(body)
                case "GET", "/response" | "/result":
                    self.stored(kind, self.path.rsplit("/", 1)[1])
                case "GET", "/subscribe":
                    self.server.sockets.serve(self)
                case "POST", "/_test":
                    self.server.faults.set(Faults.model_validate_json(body))
                    self.send(200, {})
                case "GET", _:
                    self.send(200, self.fact(kind))
                case _:
                    raise Refusal(404, "Not Found")
        except Refusal as refusal:
            self.send(refusal.status, {"detail": refusal.detail})
        except ValidationError as error:
            self.send(422, {"detail": str(error)})

    def fact(self, kind: str) -> Any:
        """What the server tells anybody about itself."""
        match kind:
            case "/ping":
                return "pong"
            case "/connected":
                return {"status": "connected"}
            case "/whoami":
                known = self.server.api_key is not None and self.headers.get(KEY) == self.server.api_key
                return {"email": "tester@localhost" if known else None, "tags": []}
            case "/env":
                return self.server.env()
            case "/status":
                return self.server.models.status()
            case "/_test":
                return self.server.stats()
        raise Refusal(404, "Not Found")

    def request_(self, body: bytes) -> None:
        """A job: it is kept, then acknowledged, then queued."""
        self.check_client()
        if self.server.faults.take_drop("drop_before"):
            return self.hang_up()
        parts = multipart(self.headers["Content-Type"] or "", body)
        if lacking := {"data", "blob"} - set(parts):
            raise Refusal(422, f"The form lacks {', '.join(sorted(lacking))}.")
        job = self.server.ledger.accept(RequestModel.model_validate_json(parts["data"]), parts["blob"])
        try:
            if self.server.faults.take_drop("drop"):
                self.hang_up()
            else:
                self.send(200, job.response.model_dump(mode="json"))
        finally:  # a client that left has still asked
            self.server.worker.tell(job, Status.QUEUED, "Moved to position 1 in Queue.")
            self.server.ledger.waiting.put(job)

    def check_client(self) -> None:
        if self.server.api_key is not None and (given := self.headers.get(KEY)) != self.server.api_key:
            if not given:
                raise Refusal(401, "Missing API key. Please visit https://login.ndif.us/ to create one.")
            raise Refusal(403, "Invalid API key. Please visit https://login.ndif.us/ to create a new one.")
        if least := self.server.min_nnsight:
            version = self.headers.get("nnsight-version", "")
            try:
                old = Version(version) < Version(least)
            except InvalidVersion:
                old = True
            if old:
                raise Refusal(
                    400,
                    f"Client nnsight version {version} is incompatible with the server nnsight version. The minimum "
                    f"supported version is {least}. Please update nnsight: `pip install --upgrade nnsight`",
                )

    def stored(self, kind: str, name: str) -> None:
        """The last status of a job that nobody listens to, or a result."""
        if self.server.faults.take_drop("drop_reading"):
            return self.hang_up()
        if kind == "/response":
            job = self.server.ledger.jobs.get(name)
            if job is None or job.request.session_id:
                raise Refusal(404, f"No response for {name}.")
            return self.send(200, job.response.model_dump(mode="json"))
        if status := self.server.faults.now.expire:
            raise Refusal(status, "Request has expired" if status == 403 else "The result is no longer kept.")
        result = self.server.ledger.result(name)
        if result is None:
            raise Refusal(404, f"No result for {name}.")
        self.send(200, result)

    def send(self, status: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if body is content else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Closes the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a form, by name."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    if not boundary:
        return {}
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        fields[head.partition(b'name="')[2].partition(b'"')[0].decode()] = content
    return fields
