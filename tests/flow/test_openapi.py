"""The OpenAPI document against the running portal: whatever it allows, and much that it does not, is answered as it
says and never with a 5xx.

Everything is real: web (gateway, worker API, Django) as a process of its own, PostgreSQL, Redis, and a gpuworker with
the echo engine. Schemathesis makes the requests; half of them break the document's rules on purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import schemathesis
from devstack.ports import free_port
from django.core.management import call_command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.flow.batching import create, jsonl, line
from tests.flow.dataplane import Plane, until
from tests.flow.test_gateway_gpuworker import START_S, _job, _planned
from tests.flow.test_openai_sdk_chat import ASK

ROOT = Path(__file__).resolve().parent.parent.parent
FEW, MANY = 6, 100  # examples of each operation, of each kind
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    ignored_auth,
]


@dataclass(frozen=True)
class Portal:
    url: str
    token: str
    known: dict[str, list[str]]  # name of a path's parameter → values that lead somewhere
    good: dict[str, Any]  # name of a body's member → a value that does


@contextlib.asynccontextmanager
async def _web(plane: Plane, log: Path) -> AsyncIterator[str]:
    """Gateway and Django as one process, as bin/demo has them."""
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


@pytest.fixture
async def portal(plane: Plane, tmp_path: Path) -> AsyncIterator[Portal]:
    """A portal with a hot model, and something of the caller's under every kind of id."""
    pilot, _ = _planned(plane)
    # An operator, whose commands nobody carries out: there is no control loop here.
    plane.sql("UPDATE accounts_user SET is_operator = true")
    plane.sql("""UPDATE accounts_apitoken SET scopes = '["inference", "read", "fleet"]'""")
    async with _web(plane, tmp_path / "web.log") as url:
        with _job(plane, pilot, tmp_path):
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
    said = (tmp_path / "web.log").read_text()
    assert "Traceback" not in said, said[-3000:]


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


def document() -> dict[str, Any]:
    out = io.StringIO()
    call_command("spectacular", "--format", "openapi-json", stdout=out)
    made: dict[str, Any] = json.loads(out.getvalue())
    return made


def operations() -> dict[str, Any]:
    schema = schemathesis.openapi.from_dict(document())
    # One that cannot be read raises here.
    found: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    return {operation.label: operation for operation in found}


def hold_against(portal: Portal, examples: int) -> None:
    """Every operation of the document, in both ways."""
    wrong: dict[str, str] = {}
    for label, operation in operations().items():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _checked(portal, operation, mode, examples)()
            except FailureGroup as found:
                wrong[f"{label} ({mode.value})"] = str(found)
    assert not wrong, "\n\n".join(f"== {label}\n{text[:3000]}" for label, text in wrong.items())


def _checked(portal: Portal, operation: Any, mode: GenerationMode, examples: int) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == FEW,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), meant=st.booleans(), data=st.data())
    def check(case: Any, meant: bool, data: st.DataObject) -> None:
        if meant:  # what random names and ids never reach
            for name in case.path_parameters or {}:
                case.path_parameters[name] = data.draw(st.sampled_from(portal.known[name]))
            if isinstance(case.body, dict):
                case.body |= {name: value for name, value in portal.good.items() if name in case.body}
        headers = {"Authorization": f"Bearer {portal.token}"}
        answer = case.call(base_url=portal.url, headers=headers)
        case.validate_response(answer, checks=CHECKS, headers=headers)

    return check


async def test_no_request_is_answered_otherwise_than_the_document_says(portal: Portal) -> None:
    await asyncio.to_thread(hold_against, portal, FEW)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_nor_is_one_of_many_more(portal: Portal) -> None:
    await asyncio.to_thread(hold_against, portal, MANY)
