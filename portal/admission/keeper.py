"""What one gateway holds in Redis (slots in use, requests in line) → kept there, and grants taken from there.

Separate from `slots`, which only knows commands. Once a second: renew leases, fill the pools this gateway
waits in, and put back what is missing there. So a lost message or a flushed Redis costs seconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from portal.admission.pipe import QueueDown
from portal.admission.place import Place
from portal.admission.slots import ACCEPT_S, LEASE_S, Lease, Route, Slots, read_route
from portal.redis import keys
from portal.redis.subscription import listen

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_CHECKED_AT_ONCE = 1000  # waiters of one pool looked up per round


@dataclass(slots=True)
class Waiter:
    """A request in line. `granted` is resolved with its route."""

    place: Place
    order_key: float
    granted: asyncio.Future[Route]
    missing_since: float | None = None


@dataclass(slots=True)
class _Held:
    lease: Lease
    renew_at: float


@dataclass(slots=True)
class _PoolHands:
    """The part of one pool that is in this gateway's hands."""

    waiters: dict[str, Waiter] = field(default_factory=dict)
    leases: dict[str, _Held] = field(default_factory=dict)
    cursor: int = 0


class Keeper:
    def __init__(
        self,
        slots: Slots,
        redis_url: str,
        gateway: str,
        *,
        on_cancel: Callable[[str], None],
        on_directory: Callable[[], None],
    ) -> None:
        self._slots = slots
        self._gateway = gateway
        self._redis_url = redis_url
        self._on_cancel = on_cancel
        self._on_directory = on_directory
        self._pools: dict[str, _PoolHands] = {}
        self._epoch = ""
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = asyncio.Event()

    async def start(self) -> None:
        listening = listen(
            self._redis_url,
            "berth-gateway",
            self._heard,
            channels=[keys.GATEWAY.of(self._gateway), keys.DIRECTORY.of()],
            began=self._came_back,
            ended=self.listening.clear,
        )
        self._tasks = [
            asyncio.create_task(listening, name="gateway-grants"),
            asyncio.create_task(self._keep(), name="gateway-keeper"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def in_hand(self) -> int:
        """Return how many requests this gateway waits for or runs."""
        return sum(len(pool.waiters) + len(pool.leases) for pool in self._pools.values())

    # Leases

    def hold(self, place: Place, route: Route, *, admitted: bool) -> None:
        """Keep a slot that is in use. One that was granted has only ACCEPT_S: it is renewed in the next round."""
        renew_at = time.monotonic() + (LEASE_S / 2 if admitted else 0.0)
        self._hands(place.pool).leases[place.request] = _Held(Lease(route.replica, place), renew_at)

    def release(self, place: Place, *, over: bool) -> None:
        """Give the slot back; `over`: the request has ended."""
        self._slots.release(place, self.let_go(place), over=over)

    def let_go(self, place: Place) -> str:
        """Keep the slot no more, because the caller gives it back. Return its replica, "" where none was held."""
        held = self._hands(place.pool).leases.pop(place.request, None)
        return held.lease.replica if held else ""

    # Waiters

    async def wait(self, place: Place, order_key: float) -> Waiter:
        """Enter the line. Raise QueueDown, and then not be in line."""
        waiter = Waiter(place, order_key, asyncio.get_running_loop().create_future())
        self._hands(place.pool).waiters[place.request] = waiter
        try:
            await self._slots.enqueue(place, order_key, self._gateway)
        except QueueDown:
            self._hands(place.pool).waiters.pop(place.request, None)
            raise
        return waiter

    def forget(self, place: Place) -> None:
        """Let go of a request that has ended, wherever it was: in line, granted or running."""
        waiter = self._hands(place.pool).waiters.pop(place.request, None)
        if waiter is not None:
            waiter.granted.cancel()
        self.release(place, over=True)

    # Messages

    def _came_back(self) -> None:
        """Look for all waiters: while nobody listened, grants to us were dropped together with them."""
        self.listening.set()
        self._on_directory()
        for hands in self._pools.values():
            for waiter in hands.waiters.values():
                waiter.missing_since = -math.inf

    def _heard(self, channel: str, data: bytes) -> None:
        if channel == keys.DIRECTORY.of():
            self._on_directory()
            return
        try:
            message = json.loads(data)
            if "cancel" in message:
                self._on_cancel(str(message["cancel"]))
            else:
                route = read_route(str(message["replica"]), str(message["route"]))
                self._granted(str(message["pool"]), str(message["request"]), route)
        except (ValueError, KeyError, TypeError) as error:
            log.error("a message that is none: %s", error)

    def _granted(self, pool: str, request: str, route: Route) -> None:
        waiter = self._hands(pool).waiters.pop(request, None)
        if waiter is None or waiter.granted.done():
            self._slots.release(Place(pool, request), route.replica, over=False)
            return
        self.hold(waiter.place, route, admitted=False)
        waiter.granted.set_result(route)

    # Once a second

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.keep_once()
            except QueueDown as error:
                log.warning("keeper: %s", error)

    async def keep_once(self) -> None:
        """Renew what is in use, fill, and put back in line what is missing there. Raise QueueDown."""
        epoch = await self._slots.epoch()
        flushed = bool(self._epoch) and epoch != self._epoch
        now = time.monotonic()
        for name, hands in list(self._pools.items()):
            if flushed:
                for waiter in hands.waiters.values():
                    waiter.missing_since = -math.inf
            due = [held for held in hands.leases.values() if flushed or held.renew_at <= now]
            if due:
                await self._slots.renew(name, [held.lease for held in due])
                for held in due:
                    held.renew_at = now + LEASE_S / 2
            if hands.waiters:
                await self._check_line(name, hands, now)
                await self._slots.fill(name)
            elif not hands.leases:
                self._pools.pop(name, None)
        self._epoch = epoch  # only now: a round that failed half-way is done again in full

    async def _check_line(self, name: str, hands: _PoolHands, now: float) -> None:
        """Put waiters back in their place that are not in line and got no grant for longer than a grant can take."""
        names = list(hands.waiters)
        start = hands.cursor % len(names)
        hands.cursor = start + _CHECKED_AT_ONCE
        looked_at = names[start : start + _CHECKED_AT_ONCE]
        missing = set(await self._slots.missing(name, looked_at))
        for request in looked_at:
            waiter = hands.waiters.get(request)
            if waiter is None:
                continue
            if request not in missing:
                waiter.missing_since = None
            elif waiter.missing_since is None:
                waiter.missing_since = now
            elif now - waiter.missing_since > ACCEPT_S:
                waiter.missing_since = None
                await self._slots.enqueue(waiter.place, waiter.order_key, self._gateway)

    def _hands(self, pool: str) -> _PoolHands:
        hands = self._pools.get(pool)
        if hands is None:
            hands = self._pools[pool] = _PoolHands()
        return hands
