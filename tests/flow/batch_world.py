"""What the tests of batches share: a file of lines, the official SDK as its owner, a look at the batches."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
from django.db import connections
from openai.types import Batch

from gpuworker import wire
from portal.batches import passes
from tests.flow.dataplane import Plane, chat
from tests.flow.pilot_client import Pilot
from tests.flow.test_workerapi_rows import _lease, _result, _send

CHAT = "/v1/chat/completions"


def line(custom_id: str, text: str = "hi", **changes: Any) -> dict[str, Any]:
    body = chat(messages=[{"role": "user", "content": text}])
    del body["stream"]
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes


def jsonl(*lines: dict[str, Any] | bytes) -> bytes:
    return b"".join(
        (part if isinstance(part, bytes) else json.dumps(part).encode()) + b"\n" for part in lines
    )


def sdk(plane: Plane, token: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=token or plane.seeded.token, max_retries=0)


async def create(plane: Plane, content: bytes, window: str = "24h") -> Batch:
    async with sdk(plane) as client:
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        extra: Any = window
        return await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=extra
        )


async def look(plane: Plane, after_s: float = 0.0) -> None:
    """Do what the Celery task does, some time from now. One that was killed holds its lock for a moment
    longer."""
    end = time.monotonic() + 60
    while not await in_thread(passes.look, plane.settings, time.time() + after_s):
        assert time.monotonic() < end, "somebody else looks after the batches"
        await asyncio.sleep(0.05)


async def in_thread(work: Any, *args: Any) -> Any:
    """Run Django's side of a test that runs in an event loop."""

    def run() -> Any:
        try:
            return work(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


async def read(plane: Plane, file: str | None) -> list[dict[str, Any]]:
    """Read the lines of an output file; none when there is no such file."""
    if file is None:
        return []
    async with sdk(plane) as client:
        text = (await client.files.content(file)).text
    return [json.loads(found) for found in text.splitlines()]


async def state(plane: Plane, batch: str) -> Batch:
    async with sdk(plane) as client:
        return await client.batches.retrieve(batch)


async def run_some(pilot: Pilot, replica: str, room: int = 4) -> list[str]:
    """Let a pilot lease rows and answer each with its own prompt; return which they were."""
    rows = await _lease(pilot, replica, room)
    if rows:
        await _send(pilot, *(_result(row, body=echoed(row)) for row in rows))
    return [row["request"] for row in rows]


def echoed(row: dict[str, Any]) -> str:
    text = json.loads(row["body"])["messages"][0]["content"]
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}, indent=1)


def refused(row: dict[str, Any]) -> wire.RowResult:
    body = '{"error": {"message": "too long", "type": "BadRequestError"}}'
    return _result(row, "failed", status=400, body=body, error_code="engine_refused")


def requests_of(plane: Plane) -> dict[str, str]:
    """Return the state of every row there is, by custom_id."""
    return dict(plane.sql("SELECT custom_id, state FROM ledger_request ORDER BY batch_line"))
