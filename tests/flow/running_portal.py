"""A running portal for tests that meet it as programs do: web as a process of its own, a gpuworker with a hot echo
model, and something of the caller's under every kind of id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from devstack.ports import free_port

from tests.flow.batch_world import create, jsonl, line
from tests.flow.dataplane import Plane, until
from tests.flow.gpuworker_job import START_S, job, planned
from tests.flow.test_openai_sdk_chat import ASK

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Portal:
    url: str
    token: str
    known: dict[str, list[str]]  # name of a path's parameter → values that lead somewhere
    good: dict[str, Any]  # name of a body's member → a value that does


@contextlib.asynccontextmanager
async def web(plane: Plane, log: Path) -> AsyncIterator[str]:
    """Start gateway and Django as one process, as bin/demo has them."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "BERTH_DATABASE_URL": plane.settings.database_url,
        "BERTH_REDIS_URL": plane.settings.redis_url,
        "BERTH_SERVE": "all",
    }
    url = f"http://127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--log-level", "warning"]
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            *argv, "--port", url.rpartition(":")[2], env=env, cwd=ROOT, stdout=out, stderr=out
        )
    try:
        async with asyncio.timeout(START_S):
            while not await _answers(plane, f"{url}/healthz"):
                await asyncio.sleep(0.05)
        yield url
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()


async def _answers(plane: Plane, url: str) -> bool:
    try:
        async with plane.client.get(url) as answer:
            return answer.status == 200
    except OSError:
        return False


async def _known(plane: Plane) -> dict[str, list[str]]:
    async with openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token) as ask:
        async with asyncio.timeout(START_S):
            chat = await ask.chat.completions.create(**ASK)
        kept = await ask.responses.create(model="demo", input="kept", background=True)
        batch = await create(plane, jsonl(line("a"), line("b")))
    assert batch.input_file_id is not None
    later = kept.id.removeprefix("resp_")
    await until(lambda: (row := plane.row(later)) and row["state"] == "done", "the kept response")
    return {
        "id": [kept.id, later, chat._request_id or ""],
        "file": [batch.input_file_id],
        "batch": [batch.id],
        "model": ["demo"],
        "name": ["demo"],
    }


@contextlib.asynccontextmanager
async def running(plane: Plane, folder: Path) -> AsyncIterator[Portal]:
    """Start a portal with a hot model, and something of the caller's under every kind of id."""
    pilot, _ = planned(plane)
    # An operator, whose commands nobody carries out: there is no control loop here.
    plane.sql("UPDATE accounts_user SET is_operator = true")
    plane.sql("""UPDATE accounts_apitoken SET scopes = '["inference", "read", "fleet"]'""")
    async with web(plane, folder / "web.log") as url:
        with job(plane, pilot, folder):
            known = await _known(plane)
            body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
            good = {
                "model": "demo",
                "body": body,
                "input_file_id": known["file"][0],
                "pool": "demo",
                "args": {},
            }
            yield Portal(url, plane.seeded.token, known, good)
    said = (folder / "web.log").read_text()
    assert "Traceback" not in said, said[-3000:]
