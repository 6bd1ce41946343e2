"""Turns "may this request run, and where?" into one Redis call: the Lua scripts and the keys they work on.

Separate from the gateway's own bookkeeping (`keeper`) because the worker API uses it too: it writes routes and
fills. Everything in Redis is soft: losing it costs seconds and admits nobody who should not be (invariant 10).

How commands travel is `pipe`'s affair, and how they are spelled `scripts`'. All that is awaited here raises QueueDown
when Redis does not answer.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from portal.admission.pipe import Pipe
from portal.admission.place import Place
from portal.admission.scripts import (
    enter_arguments,
    keep_arguments,
    leave_arguments,
    limit_arguments,
    of_limits,
    of_pool,
    read_limits,
    settle_arguments,
    tag_arguments,
)
from portal.ledger.states import Lane
from portal.policy.fairshare import Line
from portal.policy.limits import Want
from portal.redis import keys

LEASE_S = 15.0
ACCEPT_S = 3.0  # a granted slot that its gateway does not take up by then is free again


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a replica. `transport` is opaque: only portal.transport knows what to do with it."""

    replica: str
    transport: str
    pilot: str
    cap: int


@functools.lru_cache(maxsize=4096)
def read_route(replica: str, text: bytes | str) -> Route:
    raw = json.loads(text)
    return Route(replica, str(raw["transport"]), str(raw["pilot"]), int(raw["cap"]))


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot in use; its gateway renews it within LEASE_S."""

    replica: str
    place: Place


class Slots:
    """The commands. There is one instance per process and event loop."""

    def __init__(self, url: str) -> None:
        self._pipe = Pipe(url)

    @property
    def down_since(self) -> float | None:
        """Return since when Redis does not answer (monotonic); None while it does."""
        return self._pipe.down_since

    async def close(self) -> None:
        await self._pipe.close()

    # What the gateway asks

    async def admit(self, place: Place) -> Route | None:
        """Return a slot for LEASE_S, if nobody waits and a replica has room; else None = wait."""
        answer = await self._script("admit", place.pool, LEASE_S, *place.arguments())
        return read_route(answer[0].decode(), answer[1]) if answer else None

    async def enqueue(self, place: Place, order_key: float, owner: str) -> None:
        """Put it in line; only after the row is committed. Grants come to the owner's channel."""
        await self._script("enqueue", place.pool, ACCEPT_S, repr(order_key), owner, *place.arguments())

    def release(self, place: Place, replica: str = "", *, over: bool) -> None:
        """Give the slot back (`over`: and forget the request), then fill."""
        self._tell("release", place.pool, ACCEPT_S, replica, int(over), *place.arguments())

    async def enter(
        self, place: Place, wants: Sequence[Want]
    ) -> tuple[Want | None, float, list[tuple[int, float]], Route | None]:
        """Do what `limit` does, and `admit` if no limit refuses, in one step."""
        limits, slot = await self._script("enter", place.pool, *enter_arguments(place, LEASE_S, wants))
        return *read_limits(limits, wants), read_route(slot[0].decode(), slot[1]) if slot else None

    def leave(self, place: Place, replica: str, wants: Sequence[Want], used: int | None) -> None:
        """Do what `release` and `settle` do, in one step, for a request that never stood in line."""
        self._tell("leave", place.pool, *leave_arguments(ACCEPT_S, place, replica, wants, used))

    async def fill(self, pool: str) -> None:
        await self._script("fill", pool, ACCEPT_S)

    async def renew(self, pool: str, leases: Sequence[Lease]) -> None:
        """Renew slots in use; after a flush they are there again."""
        flat = [part for lease in leases for part in (lease.replica, *lease.place.arguments())]
        await self._script("renew", pool, LEASE_S, *flat)

    async def tag(
        self,
        place: Place,
        lane: str,
        project: int,
        share: float,
        priority: int,
        seed: Line | None = None,
    ) -> float | None:
        """Reserve a place in line and return its order key; None: Redis was flushed, come again with the line as
        PostgreSQL knows it.

        The request stands in the line of its project until its grant where somebody waits for it (lane held); of rows
        that pilots pull only PostgreSQL knows."""
        request = place.request if lane == Lane.HELD else ""
        args = tag_arguments(lane, project, share, priority, request, seed)
        answer = await self._script("tag", place.pool, *args)
        return float(answer) if answer else None

    def started(self, pool: str, lane: str, order_key: float) -> None:
        """Let the virtual time follow rows that pilots pull, which have started with at most this key."""
        self._tell("started", pool, lane, repr(order_key))

    async def limit(
        self, request: str, wants: Sequence[Want]
    ) -> tuple[Want | None, float, list[tuple[int, float]]]:
        """Take what is wanted of every limit, or nothing. Return (the one that refuses, seconds until it would not,
        (remaining, seconds until whole) of each)."""
        answer = await self._pipe.ask(of_limits("limit", *limit_arguments(request, wants)))
        return read_limits(answer, wants)

    def settle(self, request: str, wants: Sequence[Want], used: int | None) -> None:
        """Give back what is counted; tokens become those really used (None: as they were reserved)."""
        self._pipe.tell(of_limits("settle", *settle_arguments(request, wants, used)))

    async def keep(self, held: Iterable[tuple[Want, str]]) -> None:
        """Renew the permits of (what is counted, request)."""
        await self._pipe.ask(of_limits("keep", *keep_arguments(held)))

    async def position(self, place: Place) -> int | None:
        """Return how many stand in line up to it, from 1; None when it does not (being granted, or Redis was flushed)."""
        rank = await self._command("ZRANK", keys.WAIT.of(place.pool), place.request)
        return None if rank is None else int(rank) + 1

    async def missing(self, pool: str, requests: Sequence[str]) -> list[str]:
        """Return those that do not stand in line."""
        scores = await self._command("ZMSCORE", keys.WAIT.of(pool), *requests)
        return [request for request, score in zip(requests, scores, strict=True) if score is None]

    async def epoch(self) -> str:
        """Return the name of the life of this Redis' memory. A new one means that it was flushed."""
        await self._command("SET", keys.EPOCH.of(), secrets.token_hex(8), "NX")
        value = await self._command("GET", keys.EPOCH.of())
        return value.decode() if value else ""

    def drop_route(self, pool: str, replica: str) -> None:
        """Take a replica out of the routes that did not answer; its next sync brings it back."""
        self._pipe.tell(("HDEL", keys.ROUTES.of(pool), replica))

    async def ping(self) -> None:
        await self._command("PING")

    # What the worker API asks

    async def set_routes(self, pool: str, hot: dict[str, dict[str, Any]], gone: Iterable[str]) -> None:
        """Write a pilot's replicas of one pool into the routes, and fill."""
        key = keys.ROUTES.of(pool)
        calls = []
        if hot:
            flat = [part for id_, route in hot.items() for part in (id_, json.dumps(route, sort_keys=True))]
            calls.append(self._command("HSET", key, *flat))
        if dead := list(gone):
            calls.append(self._command("HDEL", key, *dead))
        if hot:
            calls.append(self._script("fill", pool, ACCEPT_S))
        await asyncio.gather(*calls)

    async def publish(self, channel: str, message: str) -> None:
        await self._command("PUBLISH", channel, message)

    def hint(self, channel: str, message: str) -> None:
        """Publish what nobody waits for and whose loss is made up for."""
        self._pipe.tell(("PUBLISH", channel, message))

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._command("GET", key)
        return value

    async def set(self, key: str, value: bytes, keep_s: int) -> None:
        await self._command("SET", key, value, "EX", keep_s)

    async def delete(self, key: str) -> None:
        await self._command("DEL", key)

    # Which process holds links that pilots have opened (portal.transport.reverse)

    def relays_at(self, gateway: str, address: str) -> None:
        """Say that this process is there, and lends its links to others at this address."""
        self._pipe.tell(("SET", keys.RELAY.of(gateway), address, "EX", keys.RELAY.expires_s))

    def holds_links(self, gateway: str, pilots: Iterable[str]) -> None:
        for pilot in pilots:
            self._pipe.tell(("SADD", keys.LINKS.of(pilot), gateway))
            self._pipe.tell(("EXPIRE", keys.LINKS.of(pilot), keys.LINKS.expires_s))

    def holds_no_links(self, pilot: str, gateway: str) -> None:
        self._pipe.tell(("SREM", keys.LINKS.of(pilot), gateway))

    async def links_of(self, pilot: str) -> list[tuple[str, str]]:
        """Return (process, address of its relay) of those that hold links of this pilot and are alive, in no order.

        No clock is compared: a process that has died is forgotten by Redis."""
        members = await self._command("SMEMBERS", keys.LINKS.of(pilot))
        gateways = [name.decode(errors="replace") for name in members]
        if not gateways:
            return []
        found = await self._command("MGET", *map(keys.RELAY.of, gateways))
        return [
            (name, at.decode(errors="replace"))
            for name, at in zip(gateways, found, strict=True)
            if at is not None
        ]

    # How they are sent

    def _script(self, name: str, pool: str, *args: Any) -> asyncio.Future[Any]:
        return self._pipe.ask(of_pool(name, pool, *args))

    def _tell(self, name: str, pool: str, *args: Any) -> None:
        """Run a script whose answer nobody awaits: what it would have given back is a lease that runs out."""
        self._pipe.tell(of_pool(name, pool, *args))

    def _command(self, *command: Any) -> asyncio.Future[Any]:
        return self._pipe.ask(command)
