"""Links that pilots open: who may, what a peer that misbehaves costs, how many there are, and what survives what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gpuworker import exits, frames, reverse, wire
from gpuworker.exits import CannotServe
from portal.redis import keys
from portal.transport import reverse as held
from tests.flow.dataplane import Plane, answered, chat, linking, until
from tests.flow.gpuworker_job import Worker, worker
from tests.flow.gpuworker_portal import KEY, PILOT, TOKEN, FakePortal, echo, fake_portal, row

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'10\r\ndata: {"a": 1}\n\n\r\n'


def registered(plane: Plane, job: int = 7) -> str:
    pilot = plane.new_pilot(job_id=job)
    plane.sql(
        "UPDATE fleet_pilot SET agent_job_id = job_id, address = %s || id WHERE id = %s", ("reverse:", pilot)
    )
    return pilot


def headers(plane: Plane, pilot: str, **more: str) -> dict[str, str]:
    said = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Authorization": f"Bearer {wire.derive_key(plane.settings.site_key, 'portal', pilot)}",
        wire.HEADER_PILOT: pilot,
        wire.HEADER_JOB: "7",
    }
    return {name: value for name, value in (said | more).items() if value}


class Peer:
    """A pilot's end of a link, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = frames.Frames(wants_masked=False)
        self._got = b""

    def say(self, data: bytes, kind: int = frames.BINARY) -> None:
        self.writer.write(frames.head(kind, len(data), b"abcd") + frames.masked(data, b"abcd"))

    async def hear(self, end: bytes) -> bytes:
        """Return what comes down the link, until it ends so."""
        while not self._got.endswith(end):
            data = await self.reader.read(65_536)
            assert data, "closed"
            self._got += self._frames.feed(data)[0]
        return self._got

    async def closed(self) -> None:
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65_536):
                    pass


@contextlib.asynccontextmanager
async def peer(plane: Plane, pilot: str) -> AsyncIterator[Peer]:
    host, _, port = plane.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {wire.LINK_PATH} HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in headers(plane, pilot).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let silence be noticed in a second."""
    monkeypatch.setattr(wire, "PING_S", 0.2)
    monkeypatch.setattr(wire, "SILENT_S", 1.0)
    monkeypatch.setattr(held, "SILENT_S", 1.0)
    monkeypatch.setattr(held, "SWEEP_S", 0.1)
    monkeypatch.setattr(reverse, "LOOK_S", 0.05)


# Who may


@pytest.mark.parametrize(
    ("change", "more", "status"),
    [
        ("", {"Authorization": "Bearer nonsense"}, 401),
        ("", {"Authorization": ""}, 401),
        ("", {wire.HEADER_PILOT: "nobody"}, 401),
        ("", {wire.HEADER_JOB: "8"}, 409),
        ("state = 'ended', ended_at = now()", {}, 410),
        ("agent_job_id = NULL", {}, 428),
        ("", {"Sec-WebSocket-Version": "8"}, 400),
        ("", {"Upgrade": "", "Connection": ""}, 426),
    ],
)
async def test_who_may_not_open_a_link_is_told_why(
    plane: Plane, change: str, more: dict[str, str], status: int
) -> None:
    pilot = registered(plane)
    if change:
        plane.sql(f"UPDATE fleet_pilot SET {change} WHERE id = %s", (pilot,))
    async with plane.client.get(plane.url + wire.LINK_PATH, headers=headers(plane, pilot, **more)) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"]
    assert not plane.gateway.reverse.holds(pilot)
    assert (await answered(plane, body=b"no json"))[0] == 400  # the gateway is well


async def test_a_pilot_that_no_row_knows_is_told_to_come_again(plane: Plane) -> None:
    pilot = registered(plane)
    said = headers(plane, pilot)
    plane.sql("DELETE FROM fleet_pilot WHERE id = %s", (pilot,))
    async with plane.client.get(plane.url + wire.LINK_PATH, headers=said) as answer:
        assert answer.status == 503


async def test_a_websocket_elsewhere_is_not_found(plane: Plane) -> None:
    said = headers(plane, registered(plane))
    async with plane.client.get(plane.url + "/v1/models", headers=said) as answer:
        assert answer.status == 404


async def test_a_pilot_registers_its_own_links_and_nobody_elses(plane: Plane) -> None:
    pilot, other = plane.new_pilot(job_id=7), registered(plane, 8)
    said = {"Authorization": headers(plane, pilot)["Authorization"]}
    for whose, status in ((other, 400), (pilot, 200)):
        message = wire.Register(pilot, 7, 0, "gpu01", wire.REVERSE + whose, 1.0, 2.0, "0", [], 1000)
        url = plane.url + "/worker/v1/register"
        async with plane.client.post(url, data=wire.dumps(message), headers=said) as answer:
            assert answer.status == status
    assert plane.sql("SELECT address FROM fleet_pilot WHERE id = %s", (pilot,)) == [(wire.REVERSE + pilot,)]


async def test_a_replica_is_routed_while_its_pilot_has_a_link(plane: Plane) -> None:
    pilot = registered(plane)
    replica = plane.new_replica(pilot, "hot")
    said = {"Authorization": headers(plane, pilot)["Authorization"]}
    seen = wire.ObservedReplica(
        replica, "demo", "demo", "hot", "", 4, 0, 0, 1.0, 2.0, 2.0, "", 0, 100, "echo-1"
    )

    async def sync(number: int) -> None:
        message = wire.Sync(pilot, 7, number, time.time(), False, "", [seen], [], None)
        url = plane.url + "/worker/v1/sync"
        async with plane.client.post(url, data=wire.dumps(message), headers=said) as answer:
            assert answer.status == 200, await answer.text()

    await sync(1)
    assert not plane.redis.exists(keys.ROUTES.of("demo"))
    async with peer(plane, pilot):
        await until(lambda: plane.gateway.reverse.holds(pilot), "the link")
        await sync(2)
        assert plane.redis.hexists(keys.ROUTES.of("demo"), replica)
    await until(lambda: not plane.redis.scard(keys.LINKS.of(pilot)), "no link")
    await sync(3)
    assert not plane.redis.exists(keys.ROUTES.of("demo"))


# Peers that misbehave


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 100,
        frames.head(frames.BINARY, 2**21, b"abcd"),
        frames.head(frames.TEXT, 2, b"abcd") + b"xx",
        frames.head(frames.BINARY, 4, b"abcd") + frames.masked(b"spam", b"abcd"),  # unasked
    ],
)
async def test_garbage_costs_its_own_link_and_no_other(plane: Plane, sent: bytes) -> None:
    async with linking(plane):
        pilot = registered(plane, 8)
        plane.sql("UPDATE fleet_pilot SET agent_job_id = 7 WHERE id = %s", (pilot,))
        async with peer(plane, pilot) as bad:
            await until(lambda: plane.gateway.reverse.holds(pilot), "the link")
            bad.writer.write(sent)
            await bad.closed()
        await until(lambda: not plane.gateway.reverse.holds(pilot), "it is forgotten")
        plane.route()
        assert (await answered(plane))[0] == 200


async def test_an_answer_by_hand_then_the_link_is_used_again(plane: Plane) -> None:
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    async with peer(plane, pilot) as link:
        for _ in range(3):
            asking = asyncio.create_task(answered(plane))
            link._got = b""
            said = await link.hear(b"}")
            assert said.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
            link.say(ANSWER + b'{"choices": [] }\n')
            assert (await asking)[:2] == (200, '{"choices": [] }\n')


async def test_a_link_that_stalls_before_the_answer_costs_a_retry(hurry: None, plane: Plane) -> None:
    """A pilot that hangs goes on being connected; only what it does not say tells."""
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    async with peer(plane, pilot) as link:
        asking = asyncio.create_task(answered(plane))
        await link.hear(b"}")
        await link.closed()
    (request,) = await plane.waiting()
    await plane.open()
    assert (await asking)[0] == 200
    assert (await plane.ended(request))["crashes"] == 0


async def test_a_link_that_stalls_in_the_middle_of_a_stream_is_lost(hurry: None, plane: Plane) -> None:
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    async with peer(plane, pilot) as link:
        asking = asyncio.create_task(answered(plane, chat(stream=True)))
        await link.hear(b"}")
        link.say(STREAM + CHUNK)
        status, text, _ = await asking
    assert status == 200 and text.startswith('data: {"a": 1}\n\n') and '"replica_lost"' in text


async def test_a_link_that_pings_is_not_silent(hurry: None, plane: Plane) -> None:
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    async with peer(plane, pilot) as link:
        asking = asyncio.create_task(answered(plane))
        await link.hear(b"}")
        for _ in range(12):  # of 0.2 s: twice as long as silence is borne
            link.say(b"", frames.PING)
            await asyncio.sleep(0.2)
        link.say(ANSWER + b'{"choices": [] }\n')
        assert (await asking)[0] == 200


async def test_a_cancelled_request_closes_its_link(plane: Plane) -> None:
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    async with peer(plane, pilot) as link:
        asking = asyncio.create_task(answered(plane))
        await link.hear(b"}")
        asking.cancel()
        await asyncio.wait([asking])
        await link.closed()


async def test_without_a_link_a_request_waits_for_the_next_replica(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "WAIT_S", 0.3)
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    asking = asyncio.create_task(answered(plane))
    await plane.waiting()
    assert not plane.redis.exists(keys.ROUTES.of("demo"))
    await plane.open()
    assert (await asking)[0] == 200


async def test_a_link_that_comes_late_takes_the_request_that_waits_for_it(plane: Plane) -> None:
    pilot = registered(plane)
    plane.route(pilot=pilot, url=wire.REVERSE + pilot)
    asking = asyncio.create_task(answered(plane))
    await until(lambda: plane.gateway.reverse._pilots.get(pilot), "it waits for a link")
    async with peer(plane, pilot) as link:
        await link.hear(b"}")
        link.say(ANSWER + b'{"choices": [] }\n')
        assert (await asking)[0] == 200


async def test_a_link_that_comes_while_other_gateways_are_asked_is_taken(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came between two looks, when nobody was waiting for it."""
    pilot, hub = registered(plane), plane.gateway.reverse
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(_pilot: str) -> list[str]:
        asked.set()
        await go_on.wait()
        return []

    monkeypatch.setattr(hub, "_others", slowly)
    taking = asyncio.create_task(hub.take(pilot))
    await asked.wait()
    async with peer(plane, pilot):
        await until(lambda: hub.holds(pilot), "the link")
        go_on.set()
        async with asyncio.timeout(held.WAIT_S / 2):
            link = await taking
        hub.done(pilot, link)
        assert await hub.take(pilot) is link


# The agent's end


def count(plane: Plane) -> int:
    found = plane.gateway.reverse._pilots.get(plane.linked.removeprefix(wire.REVERSE))
    return len(found.links) if found else 0


async def test_links_come_with_the_load_and_go_with_it(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverse, "SHRINK_S", 0.2)
    monkeypatch.setattr(reverse, "LOOK_S", 0.05)
    async with linking(plane, most=32):
        await until(lambda: count(plane) == reverse.SPARE, "the first ones")
        plane.ingress.gate.clear()
        plane.route(cap=40)
        asking = [asyncio.create_task(answered(plane)) for _ in range(30)]
        await until(lambda: plane.ingress.running == 30, "each has a link")
        await until(lambda: count(plane) == 32 + reverse.SPARE, "as many as may be asked for")
        plane.ingress.gate.set()
        assert {(await one)[0] for one in asking} == {200}
        # While they go, requests come: none is lost on a link that was about to close.
        while count(plane) > reverse.SPARE:
            assert (await answered(plane))[0] == 200
    assert plane.sql("SELECT count(*) FROM ledger_request WHERE crashes > 0 OR attempt > 1") == [(0,)]


async def test_a_portal_that_says_nothing_is_left(hurry: None) -> None:
    """Its kernel goes on acknowledging, so TCP would not notice."""
    opened = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")
        )
        writer.write(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: " + frames.accept_of(key) + b"\r\n\r\n")
        opened.append(writer)

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    secret = wire.Secret("p", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "t", "k")
    agent = reverse.Reverse(secret, 1, _nobody, lambda: 8, lambda: None)
    task = asyncio.create_task(agent.run())
    try:
        await until(lambda: len(opened) > 2 * reverse.SPARE, "it tries again")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.stop()
        for writer in opened:
            writer.close()
        server.close()
        await server.wait_closed()


async def _nobody(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
    raise AssertionError("nobody asks")


async def test_a_portal_that_answers_and_takes_no_link_is_told_why_the_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that passes no Upgrade on, most likely. The fake portal knows no links."""
    async with fake_portal() as portal:
        agent = reverse.Reverse(
            wire.Secret(PILOT, portal.url, TOKEN, KEY), 1, _nobody, lambda: 8, lambda: None
        )
        monkeypatch.setattr(reverse, "FIRST_LINK_LIMIT_S", 0.5)
        task = asyncio.create_task(agent.run())
        try:
            await until(lambda: agent.why, "the first refusal")
            for answered_a_sync in (True, False, True):
                agent.heard(answered_a_sync)
            assert agent._answers_since is not None
            since = agent._answers_since
            await until(lambda: time.monotonic() - since > 0.5, "half a second of answers")
            agent.heard(False)  # silence says nothing
            agent.heard(True)
            since = agent._answers_since
            await until(lambda: time.monotonic() - since > 0.5, "half a second of answers")
            with pytest.raises(CannotServe, match=r"took none of the links .* HTTP 405"):
                agent.heard(True)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await agent.stop()


@pytest.mark.nightly
async def test_such_a_job_ends_with_the_words_at_the_portal(tmp_path: Path) -> None:
    """What it pulled needs no link: that is finished first, and nothing more is taken."""
    async with fake_portal() as portal, worker_of(portal, tmp_path) as job:
        portal.set(desired=[echo(cap=1, args={"tokens_per_s": 1.0}, drain_limit_s=120.0)])
        await portal.state("hot")
        words = " ".join("word" for _ in range(45))
        await portal.put(row("q1", words))
        await until(lambda: portal.syncs[-1].draining, "it drains", reverse.FIRST_LINK_LIMIT_S + 30)
        assert not portal.results, "the row still runs"
        await portal.put(row("q2", "not any more"))
        assert await job.exit_code() == exits.UNLINKED
        assert [(result.request, result.outcome) for result in portal.results] == [("q1", "done")]
        assert "took none of the links" in portal.registers[-1].refusal


@contextlib.asynccontextmanager
async def worker_of(portal: FakePortal, folder: Path) -> AsyncIterator[Worker]:
    with worker(portal, folder, {"BERTH_LINK": "reverse"}) as job:
        yield job


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 5\r\n\r\nnginx", "426 nginx"),
        (b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: wrong\r\n\r\n", "not to a WebSocket"),
        (b"220 mail.example.org ESMTP\r\n\r\n", "it answers"),
        (b"x" * 20_000, "no web server"),
        (b"", "closed"),
    ],
)
async def test_why_there_is_no_link_is_known_in_words(said: bytes, why: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    secret = wire.Secret("p", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "t", "k")
    agent = reverse.Reverse(secret, 1, _nobody, lambda: 8, lambda: None)
    task = asyncio.create_task(agent.run())
    try:
        await until(lambda: why in agent.why, f"{why!r} in {agent.why!r}")
        assert agent.unlinked_since is not None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.stop()
        server.close()
        await server.wait_closed()
