"""Fifty programs that ask all the time, and a batch of 2,000 lines: a Berth under load, how it is hurt, and what came
of each call.

Separate from `whole`, which asks one thing at a time. The programs live in a thread with an event loop of their own,
so that a test can look and hurt meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import openai
import psycopg2
import redis as redis_library

from gpuworker import proctree
from tests.slurm.whole import POOL, WORDS, Whole

PROGRAMS = 50
LINES = 2000
# A program that is told nothing for this long has been forgotten.
SILENCE_S = 90.0

How = Literal["answer", "refused", "event", "broken", "wrong"]


def until(whole: Whole, probe: Callable[[], Any], timeout_s: float, what: str) -> None:
    """Wait as `whole.until` does, also while web or PostgreSQL is being restarted."""

    def tried() -> bool:
        try:
            return bool(probe())
        except (psycopg2.OperationalError, openai.APIConnectionError, openai.InternalServerError):
            return False

    whole.until(tried, timeout_s, what)


def hurt(whole: Whole, victim: str) -> None:
    """Break a process by SIGKILL, or Redis by FLUSHALL; what supervises it in life starts it again."""
    postgres, redis = whole.berth.stack.postgres, whole.berth.stack.redis
    assert postgres is not None and redis is not None
    if victim == "flush":
        with redis_library.Redis.from_url(redis.url) as client:
            client.flushall()
    elif victim == "postgres":
        postgres.kill()
        postgres.start_server()
    elif victim == "engine":
        os.kill(_engine(whole), signal.SIGKILL)
    else:
        whole.kill(victim)


def _engine(whole: Whole) -> int:
    """Find the echo engine of the one agent. Its own command line names only a socket."""
    below = proctree.descendants(whole._pid_of("gpuworker.agent"))
    found = [pid for pid in below if b"gpuworker.engines.echo_server" in _words(pid)[:3]]
    assert len(found) == 1, f"{len(found)} engines run"
    return found[0]


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


@dataclass(frozen=True)
class Said:
    """The end of one call: an answer; an error with its status; an error event in a stream; a connection
    that broke; or what must never be, an answer that is not the whole one."""

    program: int
    request: str  # x-request-id; "" where not even headers came
    keyed: bool
    how: How
    status: int
    code: str
    ended_at: float  # monotonic


class Programs:
    """A set of programs that ask until `stop`, each one call after the other; used as `with
    Programs(whole) as programs`."""

    def __init__(self, whole: Whole) -> None:
        self._url = f"{whole.site.url}/v1/chat/completions"
        self._token = whole.berth.token
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask_all()), daemon=True)
        self.said: list[Said] = []

    def __enter__(self) -> Programs:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each program hear the end of its last call."""
        self._stopping.set()
        self._thread.join(SILENCE_S + 10)
        assert not self._thread.is_alive(), "a program waits for ever"

    def answered_since(self, moment: float) -> set[int]:
        """Return the programs that got an answer after this (monotonic) moment."""
        return {said.program for said in list(self.said) if said.how == "answer" and said.ended_at > moment}

    async def _ask_all(self) -> None:
        limits = aiohttp.ClientTimeout(total=SILENCE_S)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {self._token}"}
        async with aiohttp.ClientSession(timeout=limits, connector=connector, headers=headers) as client:
            await asyncio.gather(*(self._go_on(client, number) for number in range(PROGRAMS)))

    async def _go_on(self, client: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while not self._stopping.is_set():
            # By turns: whole and streamed, hot (recorded at its end) and with a key (a row before its answer).
            said = await self._ask(client, number, stream=turn % 2 == 1, keyed=turn % 4 >= 2)
            self.said.append(said)
            turn += 1
            if said.how != "answer":
                await asyncio.sleep(0.1)  # as a program would

    async def _ask(self, client: aiohttp.ClientSession, number: int, *, stream: bool, keyed: bool) -> Said:
        text = f"{number} {WORDS}"
        body = {"model": POOL, "stream": stream, "messages": [{"role": "user", "content": text}]}
        headers = {"Idempotency-Key": uuid.uuid4().hex} if keyed else {}
        request, status, how, code = "", 0, "broken", ""
        try:
            async with client.post(self._url, json=body, headers=headers) as answer:
                request, status = answer.headers.get("x-request-id", ""), answer.status
                how, code = _heard(await answer.text(), status, stream, text)
        except aiohttp.ClientError as error:
            code = type(error).__name__
        return Said(number, request, keyed, how, status, code, time.monotonic())  # type: ignore[arg-type]


def _heard(said: str, status: int, stream: bool, expected: str) -> tuple[How, str]:
    if status != 200:
        return "refused", str(json.loads(said)["error"]["code"])
    if not stream:
        right = json.loads(said)["choices"][0]["message"]["content"] == expected
        return ("answer", "") if right else ("wrong", said[-500:])
    lines = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    if events and "error" in events[-1]:
        return "event", str(events[-1]["error"]["code"])
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    right = text == expected and lines[-1] == "[DONE]" and lines.count("[DONE]") == 1
    return ("answer", "") if right else ("wrong", said[-500:])


class Batch:
    """A batch of LINES lines, each asking for its own number."""

    def __init__(self, whole: Whole) -> None:
        self._sdk = openai.OpenAI(base_url=f"{whole.site.url}/v1", api_key=whole.berth.token, max_retries=8)
        lines = (
            {
                "custom_id": f"line-{i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": POOL, "messages": [{"role": "user", "content": f"{i} {WORDS}"}]},
            }
            for i in range(LINES)
        )
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = self._sdk.files.create(file=("load.jsonl", content), purpose="batch")
        made = self._sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        self.id = made.id

    def look(self) -> openai.types.Batch:
        return self._sdk.batches.retrieve(self.id)

    def done(self) -> int:
        counts = self.look().request_counts
        return counts.completed if counts else 0

    def is_over(self) -> bool:
        return self.look().status not in ("validating", "in_progress", "finalizing")

    def output(self) -> list[dict[str, Any]]:
        found = self.look()
        assert found.output_file_id is not None
        return [json.loads(line) for line in self._sdk.files.content(found.output_file_id).text.splitlines()]

    def close(self) -> None:
        self._sdk.close()
