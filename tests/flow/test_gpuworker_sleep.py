"""Sleep in a real gpuworker: what is looked at before it is believed, and what happens when it does not hold."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from gpuworker import wire
from tests.flow.gpuworker_job import Worker, fence, serving
from tests.flow.gpuworker_portal import FakePortal, chat_body, echo, until

ENGINE = "gpuworker.engines.echo_server"
CHAT = "/v1/chat/completions"


def sleepy(name: str = "a", **args: Any) -> wire.DesiredReplica:
    """Return a replica that may sleep, on GPU 0."""
    return replace(echo(name, args={"device_mb": 1000, **args}), gpus=[0], may_sleep=1)


def asleep(replica: wire.DesiredReplica) -> wire.DesiredReplica:
    return replace(replica, state="asleep", sleep_level=1)


async def answers(client: aiohttp.ClientSession, replica: str, request: str) -> tuple[int, str]:
    body = chat_body("Hello there")
    async with client.post(CHAT, data=body, headers=fence(request, replica=replica)) as answer:
        said = await answer.json()
        content = said["choices"][0]["message"]["content"] if answer.status == 200 else said["error"]["code"]
        return answer.status, content


async def puts_to_sleep(portal: FakePortal, replica: wire.DesiredReplica) -> wire.ObservedReplica:
    portal.set(desired=[asleep(replica)])
    return await portal.state("asleep", replica.id)


async def woken(portal: FakePortal, replica: wire.DesiredReplica, wakes: int) -> wire.ObservedReplica:
    """Return the replica once it is hot after so many wakes."""
    portal.set(desired=[replica])

    def look() -> wire.ObservedReplica | None:
        seen = portal.seen(replica.id)
        return seen if seen and seen.state == "hot" and seen.wakes == wakes else None

    return await until(look, lambda: f"awake again; last seen {portal.seen(replica.id)}")


async def test_another_model_runs_on_the_gpu_of_one_that_sleeps_and_it_wakes_as_it_was(
    tmp_path: Path,
) -> None:
    a, b = sleepy("a"), sleepy("b")
    async with serving(tmp_path, a) as (portal, job, client):
        hot = portal.seen("a")
        assert hot is not None
        assert (hot.can_sleep, hot.wakes) == (1, 0)
        assert hot.wake_s is not None, "the trial has measured it"
        (engine,) = job.pids(ENGINE)

        sleeps = await puts_to_sleep(portal, a)
        assert sleeps.asleep_mem_mb > 0
        assert await answers(client, "a", "q1") == (503, "asleep")

        portal.set(desired=[asleep(a), b])
        await portal.state("hot", "b")
        assert await answers(client, "b", "q2") == (200, "Hello there")
        assert portal.seen("a") is not None
        assert engine in job.pids(ENGINE)

        # Its GPU is taken until the other has left it.
        portal.set(desired=[a, asleep(b)])
        await portal.state("asleep", "b")
        back = await woken(portal, replace(a, state="hot"), 1)
        assert await answers(client, "a", "q3") == (200, "Hello there")
        assert engine in job.pids(ENGINE), "the same process"
        assert back.can_sleep == 1


async def test_a_request_in_flight_ends_before_the_engine_sleeps(tmp_path: Path) -> None:
    a = replace(sleepy(tokens_per_s=10), drain_limit_s=30.0)
    async with serving(tmp_path, a) as (portal, _, client):
        body = chat_body("one two three four five")
        async with client.post(CHAT, data=body, headers=fence(replica="a")) as answer:
            portal.set(desired=[asleep(a)])
            assert (await answer.json())["choices"][0]["message"]["content"] == "one two three four five"
        await portal.state("asleep", "a")


async def test_one_that_says_it_sleeps_and_frees_nothing_is_stopped_instead(tmp_path: Path) -> None:
    a = sleepy(sleep_frees_nothing=True)
    async with serving(tmp_path, a) as (portal, job, _):
        hot = portal.seen("a")
        assert hot is not None
        assert hot.can_sleep == 0
        assert "holds 1000 MiB of its 1000 MiB" in job.said()
        portal.set(desired=[asleep(a)])
        await portal.state("stopped", "a")
        await until(lambda: not job.pids(ENGINE), "its engine is gone")


async def _is_replaced(portal: FakePortal, job: Worker, client: aiohttp.ClientSession, words: str) -> None:
    (engine,) = job.pids(ENGINE)
    await puts_to_sleep(portal, portal.answer.desired[0])
    back = await woken(portal, replace(portal.answer.desired[0], state="hot", sleep_level=0), 1)
    (fresh,) = job.pids(ENGINE)
    assert fresh != engine
    assert back.can_sleep == 0, "its successor is not put to sleep again"
    assert back.wake_s is None, "a load is no wake"
    assert await answers(client, "a", "q9") == (200, "Hello there")
    assert words in job.said()


async def test_one_that_talks_garbage_after_its_wake_gets_a_new_engine(tmp_path: Path) -> None:
    # The first wake is the trial's.
    async with serving(tmp_path, sleepy(garbage_after_wakes=2)) as (portal, job, client):
        await _is_replaced(portal, job, client, "its answers changed over wake 2")


async def test_one_that_does_not_wake_gets_a_new_engine(tmp_path: Path) -> None:
    async with serving(tmp_path, sleepy(wake_fails_after=1)) as (portal, job, client):
        await _is_replaced(portal, job, client, "it did not wake")


async def test_one_that_is_spoiled_by_its_trial_serves_as_one_that_does_not_sleep(tmp_path: Path) -> None:
    async with serving(tmp_path, sleepy(garbage_after_wakes=1)) as (portal, job, client):
        hot = portal.seen("a")
        assert hot is not None
        assert hot.can_sleep == 0
        assert await answers(client, "a", "q1") == (200, "Hello there")
        assert "its answers changed over wake 1" in job.said()


async def test_one_that_dies_while_it_wakes_gets_a_new_engine(tmp_path: Path) -> None:
    a = sleepy(wake_s=1.0)
    async with serving(tmp_path, a) as (portal, job, client):
        await puts_to_sleep(portal, a)
        (engine,) = job.pids(ENGINE)
        portal.set(desired=[a])
        await until(lambda: (s := portal.seen("a")) and s.phase == "waking", "it wakes")
        os.kill(engine, signal.SIGKILL)
        await woken(portal, a, 1)
        assert await answers(client, "a", "q1") == (200, "Hello there")
        assert engine not in job.pids(ENGINE)


async def test_one_that_dies_in_its_sleep_has_failed(tmp_path: Path) -> None:
    a = sleepy()
    async with serving(tmp_path, a) as (portal, job, _):
        await puts_to_sleep(portal, a)
        for pid in job.pids(ENGINE):
            os.kill(pid, signal.SIGKILL)
        failed = await portal.state("failed", "a")
        assert (failed.crashes, "exit code 137" in failed.error) == (1, True)


async def test_a_sleeper_ends_with_its_pilot(tmp_path: Path) -> None:
    a = sleepy()
    async with serving(tmp_path, a) as (portal, job, _):
        await puts_to_sleep(portal, a)
        portal.set(drain=True)
        assert await job.exit_code() == 0
        assert portal.syncs[-1].ending == "drained"


async def test_nobody_puts_an_engine_to_sleep_through_the_ingress(tmp_path: Path) -> None:
    async with serving(tmp_path, sleepy()) as (_, _, client):
        for path in ("/sleep?level=1", "/sleep", "/wake_up", "/collective_rpc", "/device_mb"):
            async with client.post(path, headers=fence(replica="a")) as answer:
                assert answer.status == 404
                assert answer.headers[wire.HEADER_REFUSED] == "path"
        assert await answers(client, "a", "q1") == (200, "Hello there")
