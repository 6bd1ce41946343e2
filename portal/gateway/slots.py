"""Turns "may this request run, and where?" into one Redis call: the Lua scripts and the keys they work on.

Separate from the gateway's own bookkeeping (`keeper`) because the worker API uses it too: it writes routes and
fills. Everything in Redis is soft: losing it costs seconds and admits nobody who should not be (invariant 10).

Commands issued while one batch is on its way leave together as the next batch, so under load many requests
share one round trip. Raises QueueDown when Redis does not answer.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from portal.gateway.policy.fairshare import Line
from portal.gateway.policy.limits import Want

LEASE_S = 15.0
ACCEPT_S = 3.0  # a granted slot that its gateway does not take up by then is free again
DIRECTORY_CHANNEL = "berth:directory"
_LUA = Path(__file__).with_name("lua")
_ANSWER_S = 3.0


class QueueDown(Exception):
    """Redis did not answer."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a replica is reached. `transport` is opaque: only `forward` knows what to do with it."""

    replica: str
    transport: str
    pilot: str
    cap: int


@functools.lru_cache(maxsize=4096)
def read_route(replica: str, text: bytes | str) -> Route:
    raw = json.loads(text)
    return Route(replica, str(raw["transport"]), str(raw["pilot"]), int(raw["cap"]))


def tag_arguments(
    lane: str, project: int, share: float, priority: int, request: str, seed: Line | None
) -> list[Any]:
    seeds: list[Any] = []
    if seed is not None:
        seeds = [repr(seed.vtime)]
        for (of, level), finish in seed.finishes.items():
            seeds += [of, level, repr(finish)]
    return [lane, project, repr(share), priority, request, *seeds]


def limit_arguments(request: str, lease_s: float, now: str, wants: Sequence[Want]) -> list[Any]:
    flat = [part for want in wants for part in (want.key, want.kind, want.limit, want.cost)]
    return [request, lease_s, now, *flat]


def read_limits(
    answer: Sequence[Any], wants: Sequence[Want]
) -> tuple[Want | None, float, list[tuple[int, float]]]:
    left = [(int(answer[i]), float(answer[i + 1])) for i in range(2, len(answer), 2)]
    return wants[int(answer[0]) - 1] if answer[0] else None, float(answer[1]), left


def settle_arguments(request: str, now: str, wants: Sequence[Want], used: int | None) -> list[Any]:
    flat: list[Any] = []
    for want in wants:
        # What was taken was never more than the whole bucket.
        more = 0 if used is None else used - min(want.cost, want.limit)
        flat += [want.key, want.kind, want.limit, more]
    return [request, now, *flat]


def prefix(pool: str) -> str:
    return "berth:{%s}" % pool  # noqa: UP031  (an f-string would need four braces)


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot in use."""

    replica: str
    request: str
    alone: bool


class Script:
    """A Lua script with the functions it shares; known to Redis by its hash."""

    def __init__(self, name: str) -> None:
        self.text = (_LUA / "common.lua").read_bytes() + b"\n" + (_LUA / f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


_NAMES = (
    "admit", "enqueue", "fill", "release", "renew", "tag", "started", "give_back", "limit", "settle", "keep",
)  # fmt: skip
SCRIPTS = {name: Script(name) for name in _NAMES}


class Slots:
    """The commands. One instance per process and event loop."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool.from_url(
            url,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=2.0,
            protocol=2,
            max_connections=8,
            retry=Retry(NoBackoff(), 0),  # callers know better what a failure means for them
        )
        self._pending: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._pump_task: asyncio.Task[None] | None = None
        self.down_since: float | None = None  # monotonic; None while Redis answers

    async def close(self) -> None:
        if self._pump_task is not None:
            await asyncio.wait([self._pump_task])
        await self._pool.disconnect()

    # What the gateway asks

    async def admit(self, pool: str, request: str) -> Route | None:
        """A slot for LEASE_S, if nobody waits and a replica has room; else None = wait."""
        answer = await self._script("admit", prefix(pool), request, LEASE_S)
        return read_route(answer[0].decode(), answer[1]) if answer else None

    async def enqueue(self, pool: str, request: str, order_key: float, owner: str, alone: bool) -> None:
        """Enters the line; only after the row is committed. Grants come to the owner's channel."""
        await self._script("enqueue", prefix(pool), ACCEPT_S, request, repr(order_key), owner, int(alone))

    def release(self, pool: str, request: str, replica: str = "", *, over: bool) -> asyncio.Future[Any]:
        """Gives the slot back (`over`: and forgets the request), then fills. Nobody need await it: a lost
        release is a lease that runs out."""
        return _unwatched(
            self._script("release", prefix(pool), ACCEPT_S, request, replica, "1" if over else "0")
        )

    def fill(self, pool: str) -> asyncio.Future[Any]:
        return _unwatched(self._script("fill", prefix(pool), ACCEPT_S))

    def renew(self, pool: str, leases: Sequence[Lease]) -> asyncio.Future[Any]:
        flat = [part for lease in leases for part in (lease.replica, lease.request, int(lease.alone))]
        return _unwatched(self._script("renew", prefix(pool), LEASE_S, *flat))

    async def tag(
        self,
        pool: str,
        lane: str,
        project: int,
        share: float,
        priority: int,
        request: str,
        seed: Line | None = None,
    ) -> float | None:
        """Reserves a place in line → its order key; None = Redis was flushed: come again with the line as
        PostgreSQL knows it. `request`: '' for rows that pilots pull."""
        args = tag_arguments(lane, project, share, priority, request, seed)
        answer = await self._script("tag", prefix(pool), *args)
        return float(answer) if answer else None

    def started(self, pool: str, lane: str, order_key: float) -> asyncio.Future[Any]:
        """Rows that pilots pull have started, with at most this key."""
        return _unwatched(self._script("started", prefix(pool), lane, repr(order_key)))

    async def limit(
        self, limits: str, request: str, lease_s: float, wants: Sequence[Want]
    ) -> tuple[Want | None, float, list[tuple[int, float]]]:
        """Takes what is wanted of every limit, or nothing. → (the one that refuses, seconds until it would not,
        (remaining, seconds until whole) of each)."""
        answer = await self._script("limit", limits, *limit_arguments(request, lease_s, "", wants))
        return read_limits(answer, wants)

    def settle(
        self, limits: str, request: str, now: str, wants: Sequence[Want], used: int | None
    ) -> asyncio.Future[Any]:
        """Gives back what is counted; tokens become those really used (None: as they were reserved)."""
        return _unwatched(self._script("settle", limits, *settle_arguments(request, now, wants, used)))

    async def keep(self, limits: str, lease_s: float, held: Sequence[tuple[str, str]]) -> None:
        """Renews the leases on (key, request)."""
        await self._script("keep", limits, lease_s, *(part for pair in held for part in pair))

    async def position(self, pool: str, request: str) -> int | None:
        """Place in line, from 1; None when it is not waiting there (being granted, or Redis was flushed)."""
        rank = await self._command("ZRANK", prefix(pool) + ":wait", request)
        return None if rank is None else int(rank) + 1

    async def missing(self, pool: str, requests: Sequence[str]) -> list[str]:
        """Those that do not stand in line."""
        scores = await self._command("ZMSCORE", prefix(pool) + ":wait", *requests)
        return [request for request, score in zip(requests, scores, strict=True) if score is None]

    async def epoch(self) -> str:
        """Names the life of this Redis's memory. A new one means that it was flushed."""
        await self._command("SET", "berth:epoch", secrets.token_hex(8), "NX")
        value = await self._command("GET", "berth:epoch")
        return value.decode() if value else ""

    def drop_route(self, pool: str, replica: str) -> asyncio.Future[Any]:
        """The replica did not answer at its address; its next sync brings it back."""
        return _unwatched(self._command("HDEL", prefix(pool) + ":routes", replica))

    async def ping(self) -> None:
        await self._command("PING")

    # What the worker API asks

    async def set_routes(self, pool: str, hot: dict[str, dict[str, Any]], gone: Iterable[str]) -> None:
        """Writes a pilot's replicas of one pool into the routes and fills."""
        key = prefix(pool) + ":routes"
        calls = []
        if hot:
            flat = [part for id_, route in hot.items() for part in (id_, json.dumps(route, sort_keys=True))]
            calls.append(self._command("HSET", key, *flat))
        if dead := list(gone):
            calls.append(self._command("HDEL", key, *dead))
        if hot:
            calls.append(self._script("fill", prefix(pool), ACCEPT_S))
        await asyncio.gather(*calls)

    async def publish(self, channel: str, message: str) -> None:
        await self._command("PUBLISH", channel, message)

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._command("GET", key)
        return value

    async def set(self, key: str, value: bytes, keep_s: int) -> None:
        await self._command("SET", key, value, "EX", keep_s)

    # How they travel

    def _script(self, name: str, *args: Any) -> asyncio.Future[Any]:
        return self._command("SCRIPT", name, *args)

    def _command(self, *command: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((command, answer))
        if self._pump_task is None or self._pump_task.done():
            self._pump_task = asyncio.create_task(self._pump(), name="redis-pump")
        return answer

    async def _pump(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                answers = await self._exchange([command for command, _ in batch])
                self.down_since = None
            except (RedisError, OSError, TimeoutError) as error:
                self.down_since = self.down_since or time.monotonic()
                down = QueueDown(f"Redis: {type(error).__name__}: {error}")
                answers = [down] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer if isinstance(answer, QueueDown) else QueueDown(repr(answer)))
                else:
                    future.set_result(answer)

    async def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        link = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            answers = await self._send(link, [_spelt(command) for command in commands])
            unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                await self._send(link, [("SCRIPT", "LOAD", script.text) for script in SCRIPTS.values()])
                for i, answer in zip(
                    unknown, await self._send(link, [_spelt(commands[i]) for i in unknown]), strict=True
                ):
                    answers[i] = answer
            return answers
        except BaseException:
            await link.disconnect(nowait=True)  # answers may still be on their way: never read by another
            raise
        finally:
            await self._pool.release(link)

    async def _send(self, link: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        await link.send_packed_command(link.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await link.read_response())
            except ResponseError as error:  # this command's own; the ones behind it still have answers
                answers.append(error)
        return answers


def _spelt(command: tuple[Any, ...]) -> tuple[Any, ...]:
    if command[0] != "SCRIPT":
        return command
    return ("EVALSHA", SCRIPTS[command[1]].sha, 1, command[2] + ":wait", *command[2:])


def _unwatched(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Its failure is not news: `down_since` says so already."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
