"""What gateways meet at a pilot's port: the real agent with the echo engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gpuworker import wire
from tests.flow.gpuworker_job import Worker, fence, serving, worker
from tests.flow.gpuworker_portal import chat_body, echo, fake_portal, until

CHAT = "/v1/chat/completions"
SLOW = {"tokens_per_s": 20.0}
LONG = "word " * 400


@contextlib.asynccontextmanager
async def running(
    client: aiohttp.ClientSession, request: str, alone: bool = False
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Start a long stream, and go on when its first chunk has arrived."""
    async with client.post(
        CHAT, data=chat_body(LONG, stream=True), headers=fence(request, alone=alone)
    ) as answer:
        assert answer.status == 200
        await answer.content.readuntil(b"\n\n")
        yield answer


async def test_a_stream_passes_through_chunk_by_chunk(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"tokens_per_s": 20.0})) as (_, _, client):
        body = json.loads(chat_body("one two three", stream=True)) | {
            "stream_options": {"include_usage": True}
        }
        arrived = []
        async with client.post(CHAT, json=body, headers=fence()) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            async for chunk in answer.content.iter_any():
                arrived.append(chunk)
    text = b"".join(arrived).decode()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    said = "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])
    assert said == "one two three"
    assert events[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert text.endswith("data: [DONE]\n\n")
    # Tokens are 50 ms apart: an ingress that gathers them would deliver one or two pieces.
    assert len(arrived) >= 4


async def test_a_whole_answer_an_embedding_and_the_engines_own_error_pass_through(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, client):
        async with client.post(CHAT, data=chat_body("hello there"), headers=fence()) as answer:
            assert (await answer.json())["choices"][0]["message"]["content"] == "hello there"
        embed = {"model": "demo", "input": "x"}
        async with client.post("/v1/embeddings", json=embed, headers=fence("q2")) as answer:
            assert len((await answer.json())["data"][0]["embedding"]) == 8
        async with client.post(CHAT, json={"model": "other", "messages": []}, headers=fence("q3")) as answer:
            assert answer.status == 404
            assert "other" in (await answer.json())["error"]["message"]
            assert wire.HEADER_REFUSED not in answer.headers


REFUSED = [
    (CHAT, fence(key="wrong"), 401, "key"),
    (CHAT, {"Content-Type": "application/json"}, 401, "key"),
    ("/stats", fence(), 404, "path"),
    ("/v1/load_lora_adapter", fence(), 404, "path"),
    ("/v1/chat/completions/../../stats", fence(), 404, "path"),
    (CHAT, fence(replica="other"), 503, "unknown-replica"),
    (CHAT, fence(request=""), 400, "headers"),
    (CHAT, fence() | {wire.HEADER_ATTEMPT: "-1"}, 400, "headers"),
    (CHAT, fence() | {"Content-Length": str(10**12)}, 413, "body"),
]


async def test_what_is_refused_never_reaches_the_engine(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, job, client):
        for path, headers, status, why in REFUSED:
            async with client.post(path, data=chat_body("x"), headers=headers) as answer:
                assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (status, why)
        assert (await job.engine_stats())["seen"] == 0


async def test_health_needs_no_key_and_says_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, client):
        async with client.get("/healthz") as answer:
            assert await answer.json() == {"ok": True}


async def test_a_stale_attempt_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, job, client):
        for attempt, status in ((2, 200), (1, 409), (3, 200)):
            async with client.post(CHAT, data=chat_body("x"), headers=fence(attempt=attempt)) as answer:
                assert answer.status == status
                if status == 409:
                    assert answer.headers[wire.HEADER_REFUSED] == "stale"
        assert (await job.engine_stats())["seen"] == 2


async def test_the_cap_holds_and_a_seat_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(cap=1, args=SLOW)) as (portal, job, client):
        async with running(client, "a"):
            # One seat and one spare above it.
            async with running(client, "b"):
                async with client.post(CHAT, data=chat_body("x"), headers=fence("c")) as answer:
                    assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (503, "full")
                assert (await job.engine_stats())["seen"] == 2
                await until(lambda: (seen := portal.seen()) and seen.held == 2, "two held requests in a sync")
        idle = await until(
            lambda: (s := portal.seen()) and s.held == 0 and s.idle_since and s, "idle in a sync"
        )
        assert isinstance(idle, wire.ObservedReplica)
        async with client.post(CHAT, data=chat_body("x"), headers=fence("c", attempt=2)) as answer:
            assert answer.status == 200


async def test_a_suspect_runs_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(cap=4, args=SLOW)) as (_, job, client):
        async with running(client, "a"):
            async with client.post(CHAT, data=chat_body("x"), headers=fence("s", alone=True)) as answer:
                assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (503, "busy")
        await _settled(job)
        async with running(client, "s", alone=True):
            async with client.post(CHAT, data=chat_body("x"), headers=fence("b")) as answer:
                assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (503, "busy")


async def _settled(job: Worker) -> None:
    """Wait until nothing runs in the engine, and the ingress has noticed."""
    async with asyncio.timeout(30):
        while (await job.engine_stats())["active"]:
            await asyncio.sleep(0.02)
    before = len(job.portal.syncs) + 1  # one may be on its way that says what was before
    await until(
        lambda: len(job.portal.syncs) > before and (s := job.portal.seen()) and s.held == 0,
        "no held request in a sync",
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_reaches_the_engine(tmp_path: Path, stream: bool) -> None:
    async with serving(tmp_path, echo(args={"tokens_per_s": 20.0})) as (_, job, client):
        post = asyncio.create_task(_send(client, chat_body(LONG, stream=stream)))
        async with asyncio.timeout(30):
            while (await job.engine_stats())["active"] == 0:
                await asyncio.sleep(0.01)
        post.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await post
        await _settled(job)
        assert (await job.engine_stats())["aborted"] == 1


async def _send(client: aiohttp.ClientSession, body: bytes) -> bytes:
    async with client.post(CHAT, data=body, headers=fence()) as answer:
        return await answer.read()


async def test_starting_and_draining_replicas_are_refused(tmp_path: Path) -> None:
    async with fake_portal() as portal, aiohttp.ClientSession() as client:
        portal.set(desired=[echo(args={"load_s": 1.0, **SLOW})])
        with worker(portal, tmp_path) as job:
            await portal.state("starting")
            url = job.address + CHAT
            async with client.post(url, data=chat_body("x"), headers=fence()) as answer:
                assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (503, "starting")
            await portal.state("hot")
            async with client.post(url, data=chat_body("w " * 40, stream=True), headers=fence()) as running:
                portal.set(desired=[echo(state="draining", args={"load_s": 1.0, **SLOW})])
                await portal.state("draining")
                async with client.post(url, data=chat_body("x"), headers=fence("q2")) as answer:
                    assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (503, "draining")
                # What runs is let end.
                assert (await running.read()).endswith(b"data: [DONE]\n\n")
            await portal.state("stopped")


async def test_an_engine_that_dies_before_its_answer_is_a_crash(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"crash_on_text": "boom"})) as (portal, _, client):
        async with client.post(CHAT, data=chat_body("boom"), headers=fence()) as answer:
            assert (answer.status, answer.headers[wire.HEADER_LOST]) == (502, "crash")
        failed = await portal.state("failed")
        assert failed.crashes == 1
        assert "exit code 139" in failed.error


@pytest.mark.parametrize("fault", ["crash_mid_stream_on_text", "close_mid_stream_on_text"])
async def test_an_engine_lost_in_mid_stream_ends_the_connection_without_a_clean_end(
    tmp_path: Path, fault: str
) -> None:
    async with serving(tmp_path, echo(args={fault: "boom", "tokens_per_s": 50.0})) as (_, _, client):
        got = b""
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.post(
                CHAT, data=chat_body("boom b c d e f", stream=True), headers=fence()
            ) as answer:
                assert answer.status == 200
                async for chunk in answer.content.iter_any():
                    got += chunk
        assert b"boom" in got
        assert b"[DONE]" not in got


async def test_a_connection_lost_while_the_engine_lives_is_no_crash(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"close_mid_stream_on_text": "boom"})) as (portal, _, client):
        async with client.post(CHAT, data=chat_body("boom"), headers=fence()) as answer:
            assert (answer.status, answer.headers[wire.HEADER_LOST]) == (502, "gone")
        seen = portal.seen()
        assert seen is not None
        assert seen.state == "hot"


async def test_a_replica_stopped_at_its_drain_limit_is_no_crash(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(drain_limit_s=0.3, args={"hang_on_text": "hang"})) as (
        portal,
        _,
        client,
    ):
        post = asyncio.create_task(_status_and_loss(client))
        await until(lambda: (s := portal.seen()) and s.held == 1, "the request in a sync")
        portal.set(desired=[])
        assert await post == (502, "gone")
        await until(lambda: not portal.syncs[-1].replicas, "the replica forgotten")


async def _status_and_loss(client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.post(CHAT, data=chat_body("hang"), headers=fence()) as answer:
        return answer.status, answer.headers[wire.HEADER_LOST]


async def test_kill_9_of_an_engine_is_noticed_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, job, _):
        (pid,) = job.pids("gpuworker.engines.echo_server")
        os.kill(pid, signal.SIGKILL)
        failed = await portal.state("failed", within_s=10)
        assert failed.crashes == 1
        assert job.pids("gpuworker.engines.echo_server") == []
