"""An agent with one replica that is always hot, whose engine is the null back end: the ingress and the links are ours.

    python _null_agent.py '{"backend": …, "portal": …, "pilot": …, "token": …, "key": …, "replica": …, "port": …}'

It serves on the port and, where `portal` is given, down the links that it opens there: what differs between two of
these is who opened the connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import aiohttp

from gpuworker import wire
from gpuworker.ingress import Ingress
from gpuworker.replicas import Replicas
from gpuworker.reverse import Reverse
from gpuworker.seats import Fence, Seats

CAP = 256


@dataclass
class NullReplica:
    """A replica as far as an ingress asks for one."""

    session: aiohttp.ClientSession
    want: Any
    state: str = "hot"
    seats: Seats = field(default_factory=lambda: Seats(CAP, None))

    async def lost(self, _within_s: float) -> str:
        return "gone"


async def main(asked: dict[str, Any]) -> None:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3600)
    session = aiohttp.ClientSession(asked["backend"], connector=connector)
    replica = NullReplica(session, SimpleNamespace(id=asked["replica"]))
    ingress = Ingress(
        asked["key"], cast(Replicas, {asked["replica"]: replica}), Fence(), lambda _replica: None
    )
    await serve(ingress, asked["port"])
    if not asked["portal"]:
        await asyncio.Event().wait()
    secret = wire.Secret(asked["pilot"], asked["portal"], asked["token"], asked["key"])
    await Reverse(secret, 1, ingress.answer, lambda: CAP, lambda: None).run()


async def serve(ingress: Ingress, port: int) -> None:
    await ingress.start([ipaddress.ip_address("127.0.0.1")], (port, port))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
