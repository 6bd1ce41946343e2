"""The portal's URL and `door_address` → the addresses that the ingress is to serve on here.

Asks the network and the kernel; which of their answers counts is `gpuworker.addresses`. The portal is really connected
to, because a route says nothing of a firewall, and of a portal with several addresses one may be dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from gpuworker import addresses, exits, interfaces
from gpuworker.exits import JobOver
from gpuworker.interfaces import Address
from gpuworker.wakeup import woken

log = logging.getLogger("berth.door")

CONNECT_S = 5.0
MOST_PORTAL_ADDRESSES = 4
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


async def find(
    door: str, portal_url: str, until: float, wake: asyncio.Event, told_to_end: Callable[[], bool]
) -> list[Address]:
    """Return the addresses to bind, the best first, as soon as the portal is reached.

    Raises NoAddress; JobOver when the portal was not reached until `until` (UNIX seconds) or the job is told to end.
    """
    tries = 0
    while True:
        routes, why = await reach(portal_url)
        if routes:
            return addresses.choose(door, interfaces.read(), routes)
        log.warning("no connection to the portal yet: %s", why)
        if time.time() > until:
            raise JobOver(exits.SILENT, f"no connection to the portal at {portal_url}: {why}")
        if told_to_end():
            raise JobOver(exits.DONE, "told to end before the portal was reached")
        wake.clear()
        await woken(wake, RETRY_S[min(tries, len(RETRY_S) - 1)])
        tries += 1


async def reach(portal_url: str) -> tuple[list[Address], str]:
    """Return this node's ends of connections to the portal's addresses, in the resolver's order; else why there
    are none."""
    parts = urlsplit(portal_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname or "", port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        return [], f"{parts.hostname}: {error.strerror or error}"
    some = found[:MOST_PORTAL_ADDRESSES]
    ends = await asyncio.gather(*(_local_end(family, where) for family, _, _, _, where in some))
    routes = list(dict.fromkeys(end for end in ends if not isinstance(end, str)))
    return routes, "; ".join(end for end in ends if isinstance(end, str))


async def _local_end(
    family: int, where: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
) -> Address | str:
    try:
        link = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        return f"{where[0]!s}: {error.strerror}"
    with link:
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(link, where)
            return addresses.plain(link.getsockname()[0])
        except TimeoutError:
            return f"{where[0]!s} port {where[1]!s}: no answer within {CONNECT_S:.0f} s"
        except OSError as error:
            # asyncio's own text names the address again.
            said = os.strerror(error.errno) if error.errno else str(error)
            return f"{where[0]!s} port {where[1]!s}: {said}"
