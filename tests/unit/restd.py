"""A tiny slurmrestd for unit tests: answers what a test gives it, in the shapes of v0.0.42, and notes what was asked."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Data = dict[str, Any]
NO_PATH = (404, b"Not Found")


@dataclass
class Asked:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


@dataclass
class Restd:
    """A slurmrestd whose answers a test chooses.

    `answers`: "METHOD path" → status and body (JSON unless it is bytes); with "?update" for listings since a
    time. `drip`: the answer comes byte by byte, for ever. A token that is not in `tokens` is refused, where
    any are given.
    """

    url: str = ""
    answers: dict[str, tuple[int, Data | bytes]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    drip: bool = False
    released: threading.Event = field(default_factory=threading.Event)

    def serve(self, versions: tuple[str, ...] = ("v0.0.42",), *, accounting: bool = False) -> None:
        """List these versions at /openapi/v3."""
        rooms = ("slurm", "slurmdb") if accounting else ("slurm",)
        verbs: Data = {"get": {}, "delete": {}}
        paths: Data = {f"/{room}/{version}/jobs/": verbs for room in rooms for version in versions}
        self.answers["GET /openapi/v3"] = (200, {"openapi": "3.0.3", "paths": paths})

    def paths(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.asked]


def jwt(**claims: Any) -> str:
    def part(value: Data) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2ln"


def fine(**fields: Any) -> tuple[int, Data]:
    return 200, {"meta": {}, "errors": [], "warnings": [], **fields}


def refused(number: int, words: str, status: int = 500) -> tuple[int, Data]:
    error = {"description": "Batch job submission failed", "error_number": number, "error": words}
    return status, {"meta": {}, "errors": [{**error, "source": "slurm_submit_batch_job()"}], "warnings": []}


def number(value: int) -> Data:
    return {"set": True, "infinite": False, "number": value}


def unset() -> Data:
    return {"set": False, "infinite": False, "number": 0}


def job(job_id: int, name: str, *states: str, user: str = "berth", **fields: Any) -> Data:
    return {
        "job_id": job_id,
        "name": name,
        "user_name": user,
        "user_id": 1000,
        "job_state": list(states or ("PENDING",)),
        "state_reason": "None",
        "state_description": "",
        "partition": "gpu",
        "nodes": "",
        "submit_time": number(1_795_222_800),
        "start_time": number(0),
        "end_time": number(0),
        "time_limit": number(5),
        **fields,
    }


@contextmanager
def restd() -> Iterator[Restd]:
    state = Restd()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            path, _, query = self.path.partition("?")
            body = json.loads(text) if text else None
            state.asked.append(Asked(self.command, path, query, dict(self.headers), body))
            status, answer = self._answer(path + "?update" if "update_time=" in query else path, path)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) + (1000 if state.drip else 0)))
            self.end_headers()
            if state.drip:
                while not state.released.wait(0.05):
                    try:
                        self.wfile.write(b" ")
                    except OSError:
                        return
                return
            try:
                self.wfile.write(data)
            except OSError:
                pass

        def _answer(self, *paths: str) -> tuple[int, Data | bytes]:
            if state.tokens and self.headers.get("X-SLURM-USER-TOKEN") not in state.tokens:
                return 401, b"Authentication failure"
            found = (state.answers.get(f"{self.command} {path}") for path in paths)
            return next((answer for answer in found if answer is not None), NO_PATH)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
