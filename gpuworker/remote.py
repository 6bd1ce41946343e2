"""Another node of the job: what it holds, and the parts of engines that run there, as seen from the agent.

Separate from `nodes`, which starts the helpers and knows all of them; engines know only this.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from gpuworker import nodelink
from gpuworker.engines.protocol import EngineExit, EngineFailed, Start
from gpuworker.nodelink import Link, LinkLost, Message

log = logging.getLogger("berth.nodes")

LOST = 128 + 15  # as ended from outside: the loss of a node is no fault of a request


class Part:
    """A part of an engine on another node. Ends once, however it ends."""

    def __init__(self, node: Remote, name: str, log_path: Path) -> None:
        self._node = node
        self.name = name
        self.log_path = log_path
        self.mem_mb = 0
        self._end: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()

    def running(self) -> bool:
        return not self._end.done()

    async def ended(self) -> EngineExit:
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> None:
        """Ask for its end and wait for it; a node that is silent is waited for as long as the link is. One that is
        still there then is given up: a process that nobody can kill must not hold up the end of all others."""
        if self.running():
            self._node.say("stop", part=self.name, grace_s=grace_s)
            limit_s = grace_s + nodelink.SILENT_S
            await asyncio.wait([self._end], timeout=limit_s)
            if self.running():
                why = f"its part on node {self._node.name} could not be ended within {limit_s:.0f} s and may hold GPUs"
                log.error("%s", why)
                self.is_over(LOST, why)

    def is_over(self, code: int, why: str) -> None:
        if self.running():
            self._end.set_result(EngineExit(code, why))

    def logged(self, text: str) -> None:
        """Append to its log. A disk that is full costs these lines, not the replica."""
        try:
            with self.log_path.open("a") as file:
                file.write(text)
        except OSError as error:
            log.warning("%d characters of a log of node %s are lost: %s", len(text), self._node.name, error)


class Remote:
    """One of the job's other nodes, and the link to its helper while there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holds: Message = {}
        self.address = ""
        self.there = asyncio.Event()
        self._link: Link | None = None
        self._parts: dict[str, Part] = {}
        self._count = 0

    def say(self, kind: str, **what: object) -> None:
        if self._link is not None:
            self._link.say(kind, **what)

    def start(self, start: Start, log_path: Path) -> Part:
        """Start a part of an engine on that node. Raise EngineFailed where no helper is there."""
        if self._link is None:
            raise EngineFailed(f"node {self.name} of this job does not answer")
        self._count += 1
        part = Part(self, str(self._count), log_path)
        self._parts[part.name] = part
        self._link.say("start", part=part.name, maker=self.holds["maker"], start=dataclasses.asdict(start))
        return part

    async def serve(self, link: Link, hello: Message) -> str:
        """Hear its helper until that is gone; why it is."""
        self.holds, self.address, self._link = hello, link.peer_address(), link
        self.there.set()
        try:
            while True:
                self._heard(await link.hear())
        except LinkLost as lost:
            return str(lost)
        finally:
            self.there.clear()
            self._link = None
            await link.close()
            for part in self._parts.values():
                part.is_over(LOST, f"node {self.name} of the job was lost")
            self._parts.clear()

    def _heard(self, said: Message) -> None:
        part = self._parts.get(str(said.get("part")))
        if part is None:
            return
        if said["kind"] == "log":
            part.logged(str(said["text"]))
        elif said["kind"] == "memory":
            part.mem_mb = int(said["mb"])
        elif said["kind"] == "ended":
            # Read before it is forgotten: of a message that makes no sense the loss of the link ends the part.
            code, why = int(said["code"]), said["why"]
            del self._parts[part.name]
            part.is_over(code, f"its part on node {self.name}: {why or f'ended with exit code {code}'}")


@dataclass(frozen=True, slots=True)
class Span:
    """A replica's GPUs on one node; `node` is None for the agent's own."""

    node: Remote | None
    gpus: list[str]
