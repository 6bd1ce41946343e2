"""A route's transport → a connection over which its pilot answers: dialled, or a link that the pilot has opened.

http://host:port   the gateway dials the ingress (`link`)
reverse:<pilot>    the agent has opened links, to this process or to another one (`reverse`)
"""

from __future__ import annotations

from collections.abc import Awaitable

from gpuworker.wire import REVERSE
from portal.transport.link import Link, Links, request_head
from portal.transport.reverse import Reverse


class Transports:
    """The ways to ingresses. `send`, then give the connection back with `done`, however it went."""

    def __init__(self, reverse: Reverse) -> None:
        self._links = Links()
        self._reverse = reverse

    def send(self, transport: str, path: str, headers: str, body: bytes) -> Awaitable[Link]:
        """Send a POST and return the link on which its answer comes. `headers` are whole lines.

        Raise Unreachable, LinkLost."""
        if transport.startswith(REVERSE):
            return self._taken(transport.removeprefix(REVERSE), path, headers, body)
        return self._links.send(transport, path, headers, body)

    async def _taken(self, pilot: str, path: str, headers: str, body: bytes) -> Link:
        link = await self._reverse.take(pilot)
        try:
            await link.send(request_head(path, pilot, headers, len(body)), body)
        except BaseException:
            self._reverse.done(pilot, link)
            raise
        return link

    def done(self, transport: str, link: Link) -> None:
        """Keep the link for the next request if the answer was read to its end; else close it, which stops the engine."""
        if transport.startswith(REVERSE):
            self._reverse.done(transport.removeprefix(REVERSE), link)
        else:
            self._links.done(transport, link)

    def close(self) -> None:
        self._links.close()
