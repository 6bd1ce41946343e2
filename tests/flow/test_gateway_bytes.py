"""A path whose bodies are no JSON: through gateway, queue, ingress and leaser to the engine and back, unharmed.

The path is one that only these tests have: a line more in the table of endpoints, in this process, in the agent and in
its engine. The echo engine answers with the body that it got.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpuworker import endpoints
from gpuworker.endpoints import Endpoint
from portal.acceptance import asked
from portal.acceptance.asked import Asked
from tests.flow.dataplane import Plane
from tests.flow.gpuworker_job import ROOT, job, planned

TENSOR = Endpoint(
    name="tensor",
    path="/v2/tensors",
    engine_path="/engine/tensors",
    tasks=frozenset(),
    content_types=("application/octet-stream", "application/x-tensor"),
    answer="bytes",
    streams=False,
    batch=False,
    estimate="size",
    usage="never",
)
# No UTF-8, and full of words that mean something in JSON.
BODY = b'\xff\x00\r\n\r\n{"usage":{"prompt_tokens":7},"finish_reason":"abort"}\xfe' + bytes(range(256)) * 40
KIND = {"Content-Type": "application/x-tensor"}
ADDED = f"""
from gpuworker import endpoints
from gpuworker.endpoints import Endpoint
tensor = {TENSOR!r}
endpoints.ENDPOINTS[tensor.path] = tensor
endpoints.ENGINE_PATHS[tensor.engine_path] = tensor
"""


def read_tensor(endpoint: Endpoint, body: bytes, content_type: str) -> Asked:
    return Asked(endpoint, "demo", False, False, body, content_type=content_type)


@pytest.fixture(autouse=True)
def with_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the line to the table before the gateway reads it."""
    monkeypatch.setitem(endpoints.ENDPOINTS, TENSOR.path, TENSOR)
    monkeypatch.setitem(endpoints.ENGINE_PATHS, TENSOR.engine_path, TENSOR)
    monkeypatch.setitem(asked.READERS, TENSOR.name, read_tensor)


@pytest.fixture
def worker_path(tmp_path: Path, plane: Plane) -> str:
    """Return a PYTHONPATH on which the line is in the agent's table, too, and in that of its engine's
    interpreter."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(ADDED)
    interpreter = folder / "python"
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH={folder}:$PYTHONPATH exec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    plane.sql("UPDATE catalog_environment SET python = %s", (str(interpreter),))
    return f"{folder}:{ROOT}"


def _kept(plane: Plane, request: str) -> tuple[bytes, str, bytes, str]:
    """Return (body, its type, result, its type) as the ledger has them."""
    ((body, kind, result, result_type),) = plane.sql(
        "SELECT body, content_type, coalesce(result, ''), result_type FROM ledger_payload WHERE request = %s",
        (request,),
    )
    return bytes(body), kind, bytes(result), result_type


async def test_held_waiting_and_pulled_requests_carry_bytes(
    plane: Plane, tmp_path: Path, worker_path: str
) -> None:
    pilot, _ = planned(plane)
    asking = plane.post(BODY, TENSOR.path, KIND | {"Idempotency-Key": "once"})
    with job(plane, pilot, tmp_path, env={"PYTHONPATH": worker_path}) as running:
        async with asking as cold:  # waits in line, for the engine to start
            assert (cold.status, cold.content_type) == (200, "application/x-tensor"), (await cold.read())[
                :200
            ]
            assert await cold.read() == BODY
        assert running.poll() is None
        async with plane.post(BODY, TENSOR.path, KIND) as hot:
            assert (hot.status, hot.content_type, await hot.read()) == (200, "application/x-tensor", BODY)
        for answer in (cold, hot):
            row = await plane.ended(answer.headers["x-request-id"])
            assert (row["state"], row["api"], row["prompt_tokens"]) == ("done", TENSOR.path, None)

        async with plane.post(BODY, TENSOR.path, KIND | {"Prefer": "respond-async"}) as later:
            assert later.status == 202
            id_ = (await later.json())["id"]
        pulled = await plane.ended(id_)
        assert (pulled["state"], pulled["holder"], pulled["prompt_tokens"]) == ("done", pilot, None)
        kind = "application/x-tensor"
        assert _kept(plane, id_) == (BODY, kind, BODY, kind)

    async with plane.post(BODY, TENSOR.path, KIND | {"Idempotency-Key": "once"}) as again:
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.status, again.content_type, await again.read()) == (200, kind, BODY)


async def test_while_it_waits_its_type_is_kept(plane: Plane) -> None:
    async with plane.post(BODY, TENSOR.path, KIND | {"Prefer": "respond-async"}) as later:
        id_ = (await later.json())["id"]
    assert _kept(plane, id_) == (BODY, "application/x-tensor", b"", "application/json")


@pytest.mark.parametrize("said", ["application/json", "text/plain; charset=x", "x" * 300])
async def test_another_type_is_refused(plane: Plane, said: str) -> None:
    async with plane.post(BODY, TENSOR.path, {"Content-Type": said}) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_parameter", "Content-Type")
