"""Links that pilots have opened to this process → a link for the next request to one of them.

The other half of `gpuworker.reverse`. A link that is idle here is taken at once. Where all of this process's are busy,
or it holds none, the process that does is asked (`relay`); and else the request waits a moment, because the agent
opens more as they get busy. After that the pilot counts as unreachable, as an ingress that does not answer does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuworker.wire import SILENT_S, Tunnel
from portal.admission.pipe import QueueDown
from portal.admission.slots import Slots
from portal.transport.link import Link, Unreachable
from portal.transport.relay import Relay

log = logging.getLogger(__name__)

WAIT_S = 3.0
LOOK_S = 0.1
SWEEP_S = 5.0
MOST_OF_A_PILOT = 2048


@dataclass(slots=True)
class _Pilot:
    """The links of one pilot that this process holds, and who waits for one."""

    links: dict[Link, Tunnel] = field(default_factory=dict)
    idle: deque[Link] = field(default_factory=deque)
    leaving: set[Link] = field(default_factory=set)
    waiting: deque[asyncio.Future[Link]] = field(default_factory=deque)


class Reverse:
    """The links of this process. `take` one, then give it back with `done`, however it went."""

    def __init__(self, gateway: str, slots: Slots, relay: Relay) -> None:
        self._gateway = gateway
        self._slots = slots
        self._relay = relay
        self._relay.offers(self._idle_of, self._back)
        self._pilots: dict[str, _Pilot] = {}
        self._borrowed: set[Link] = set()
        self._stopping = False
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._relay.start()
        self._sweeper = asyncio.create_task(self._sweep(), name="links-sweeper")

    async def stop(self) -> None:
        self.leave()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for held in list(self._pilots.values()):
            for tunnel in list(held.links.values()):
                tunnel.close()
        await self._relay.stop()

    def leave(self) -> None:
        """Prepare for the end of this process: its pilots' links are to be at others. Those in use are closed later."""
        if self._stopping:
            return
        self._stopping = True
        for pilot, held in list(self._pilots.items()):
            self._slots.holds_no_links(pilot, self._gateway)
            while held.idle:
                self._close(held, held.idle.pop())

    def holds(self, pilot: str) -> bool:
        """Return whether this process has a link of this pilot, idle or in use."""
        held = self._pilots.get(pilot)
        return held is not None and bool(held.links)

    def room(self, pilot: str) -> bool:
        """Return whether one more link of this pilot may be taken in."""
        held = self._pilots.get(pilot)
        return not self._stopping and (held is None or len(held.links) < MOST_OF_A_PILOT)

    # Pilots come and go

    def opened(self, pilot: str, lost: Callable[[], None]) -> Tunnel:
        """Return the tunnel for a connection of this pilot. `lost` is called at its end."""
        held = self._pilots.setdefault(pilot, _Pilot())
        link = Link()

        def gone() -> None:
            held.links.pop(link, None)
            held.leaving.discard(link)
            with contextlib.suppress(ValueError):
                held.idle.remove(link)
            if not held.links and not held.waiting and self._pilots.get(pilot) is held:
                del self._pilots[pilot]
            if not held.links:
                self._slots.holds_no_links(pilot, self._gateway)
            lost()

        tunnel = Tunnel(link, client=False, on_lost=gone, on_leaving=lambda: self._leaves(held, link))
        held.links[link] = tunnel
        if len(held.links) == 1:
            self._slots.holds_links(self._gateway, [pilot])
        return tunnel

    def ready(self, pilot: str, tunnel: Tunnel) -> None:
        """Let requests go down a connection that stands now."""
        link = tunnel.get_protocol()
        held = self._pilots.get(pilot)
        if held is not None and isinstance(link, Link):
            self._put(held, link)

    def _leaves(self, held: _Pilot, link: Link) -> None:
        """Close a link that its pilot does not need any more; from here, where it is known that nothing is on its way."""
        held.leaving.add(link)
        if link in held.idle:
            held.idle.remove(link)
            self._close(held, link)

    # Requests

    async def take(self, pilot: str) -> Link:
        """Return a link of the pilot: idle here, borrowed, or the next that is free. Raise Unreachable after WAIT_S."""
        if link := self._idle_of(pilot):
            return link
        until = time.monotonic() + WAIT_S
        while True:
            if link := await self._relay.borrow(pilot, await self._others(pilot)):
                self._borrowed.add(link)
                return link
            if link := await self._wait(pilot, min(LOOK_S, until - time.monotonic())):
                return link
            if time.monotonic() >= until:
                raise Unreachable("no link")

    def done(self, pilot: str, link: Link) -> None:
        """Keep the link for the next request if the answer was read to its end; else close it, which stops the engine."""
        if link in self._borrowed:
            self._borrowed.discard(link)
            self._relay.give_back(link)
            return
        self._back(pilot, link)

    def _back(self, pilot: str, link: Link) -> None:
        held = self._pilots.get(pilot)
        if held is None or link not in held.links:
            link.close()
        elif not link.usable:
            held.links[link].abort()
        else:
            self._put(held, link)

    def _put(self, held: _Pilot, link: Link) -> None:
        if self._stopping or link in held.leaving:
            self._close(held, link)
            return
        while held.waiting:
            waiter = held.waiting.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        held.idle.append(link)

    def _close(self, held: _Pilot, link: Link) -> None:
        if tunnel := held.links.get(link):
            tunnel.close()

    def _idle_of(self, pilot: str) -> Link | None:
        held = self._pilots.get(pilot)
        while held is not None and held.idle:
            link = held.idle.pop()  # the warmest; the agent closes those that are cold
            if link.usable and not held.links[link].is_closing():
                return link
        return None

    async def _others(self, pilot: str) -> list[str]:
        """Return where the relays of the processes are that hold links of this pilot; none while Redis is away."""
        try:
            found = await self._slots.links_of(pilot)
        except QueueDown:
            return []
        return [relay for gateway, relay in found if gateway != self._gateway]

    async def _wait(self, pilot: str, within_s: float) -> Link | None:
        if link := self._idle_of(pilot):  # it came while others were asked
            return link
        held = self._pilots.setdefault(pilot, _Pilot())
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        held.waiting.append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=max(0.0, within_s))
            return waiter.result() if waiter.done() else None
        except asyncio.CancelledError:
            if waiter.done():
                self._back(pilot, waiter.result())
            raise
        finally:
            waiter.cancel()
            with contextlib.suppress(ValueError):
                held.waiting.remove(waiter)
            if not held.links and not held.waiting and self._pilots.get(pilot) is held:
                del self._pilots[pilot]

    # Upkeep

    async def _sweep(self) -> None:
        """Say again what is held (Redis may have forgotten), and end links that have fallen silent: agents ping."""
        while True:
            try:
                self._sweep_once()
            except Exception:  # nobody awaits this task, and without it Redis forgets this process
                log.exception("upkeep of the links")
            await asyncio.sleep(SWEEP_S)

    def _sweep_once(self) -> None:
        self._slots.relays_at(self._gateway, self._relay.address)
        if not self._stopping:
            self._slots.holds_links(self._gateway, [p for p, held in self._pilots.items() if held.links])
        for pilot, held in list(self._pilots.items()):
            for tunnel in list(held.links.values()):
                if tunnel.silent_s() > SILENT_S:
                    log.warning("a link of pilot %s is silent: closing it", pilot)
                    tunnel.abort()
