"""The nodes of this job as the agent sees them: its own, and on each other one a helper that it starts with `srun`.

A job has one node most of the time, and then nothing of this runs. With several, the agent is on the first of Slurm's
list; each helper (`gpuworker.node`) dials it, proves itself and stays connected. The portal counts the GPUs of all nodes
as one row, in the order of the list; `spans` cuts that row up again.

A helper that goes takes its parts of engines with it, and so every engine that has one. It is started again, a few times
only: a node that does not come back ends the job, whose other nodes are of no use to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuworker import hostlist, interfaces, logtail, nodelink, step
from gpuworker.engines.protocol import EngineFailed
from gpuworker.nodelink import Link, LinkLost, Message
from gpuworker.remote import Remote, Span
from gpuworker.resources import Resources
from gpuworker.settings import Settings, SettingsError

log = logging.getLogger("berth.nodes")

COME_S = 120.0  # for a helper to be there: srun, an interpreter from a shared file system, the GPUs' list
AGAIN_COME_S = 30.0  # for one that was there before; a node that is down makes srun wait
TRIES = 2
AGAIN_S = 2.0
# Where the ranks of an engine meet: on the network that a profile's prologue chose for them, if it chose one.
_FABRIC = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Nodes:
    """The other nodes of this job.

    Call `start`, then wait for `gathered`; `stop` ends the helpers and with them what they started.
    """

    def __init__(self, given: Settings, holds: Resources, env: Mapping[str, str], folder: Path) -> None:
        """Raise SettingsError where Slurm's list of nodes makes no sense."""
        self._given = given
        self._holds = holds
        self._env = env
        self._folder = folder
        self._key = secrets.token_hex(32)
        self._per_node = given.asked_gpus or len(holds.gpus.ids)
        self.others = [Remote(name) for name in _others(given, env)]
        self._expected: dict[str, asyncio.Future[tuple[Link, Message]]] = {}
        self._server: asyncio.Server | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self.lost = ""  # why one of them does not come back, in words
        self._bad: asyncio.Event = asyncio.Event()
        self.address = ""

    # What all of them hold, as the portal counts it.

    @property
    def name(self) -> str:
        """Return the name that Slurm's listing has: of several nodes its short form."""
        listed = self._env.get("SLURM_JOB_NODELIST") or self._env.get("SLURM_NODELIST")
        return listed if self.others and listed else self._given.node

    @property
    def gpu_ids(self) -> list[str]:
        return [*self._holds.gpus.ids, *(str(id_) for node in self.others for id_ in node.holds["ids"])]

    @property
    def mem_mb(self) -> int:
        """Return the MiB that each node has: those of the smallest."""
        return min([self._holds.mem_mb, *(int(node.holds["mem_mb"]) for node in self.others)])

    @property
    def maker(self) -> str:
        return self._holds.gpus.maker

    def spans(self, indices: Sequence[int]) -> list[Span]:
        """Return which GPUs of which nodes these are, the agent's own node first. Nodes without any are left out."""
        if not self.others:
            return [Span(None, _named(self._holds.gpus.names, indices))]
        found = []
        for rank, node in enumerate([None, *self.others]):
            first = rank * self._per_node
            mine = [index - first for index in indices if first <= index < first + self._per_node]
            names = self._holds.gpus.names if node is None else tuple(node.holds.get("names", ()))
            if mine or node is None:
                found.append(Span(node, _named(names, mine)))
        return found

    async def ready(self, within_s: float = COME_S) -> None:
        """Wait until every helper is there again. Raises EngineFailed."""
        try:
            async with asyncio.timeout(within_s):
                for node in self.others:
                    await node.there.wait()
        except TimeoutError:
            silent = ", ".join(node.name for node in self.others if not node.there.is_set())
            raise EngineFailed(f"no helper on {silent} within {within_s:.0f} s") from None

    # Their lives.

    async def start(self, address: str) -> None:
        """Start the helpers. `address` is where the agent is reached on the cluster's network. Raise
        SettingsError."""
        self.address = meeting_address(self._env) or address
        if not self.others:
            return
        try:
            self._server = await asyncio.start_server(
                self._connected, self.address, 0, limit=nodelink.MOST_LINE
            )
        except OSError as error:
            raise SettingsError(f"no port on {self.address} for the job's other nodes: {error}") from None
        self._keepers = [asyncio.create_task(self._keep(node)) for node in self.others]

    async def gathered(self) -> None:
        """Wait for all of them. Raises SettingsError when one does not come, or cannot serve."""
        waits = [asyncio.create_task(node.there.wait()) for node in self.others]
        bad = asyncio.create_task(self._bad.wait())
        try:
            for wait in waits:
                await asyncio.wait([wait, bad], return_when=asyncio.FIRST_COMPLETED)
                if self.lost:
                    raise SettingsError(self.lost)
        finally:
            for task in (*waits, bad):
                task.cancel()
        for node in self.others:
            log.info("node %s is here, at %s, with %d GPUs", node.name, node.address, len(node.holds["ids"]))

    async def stop(self) -> None:
        for node in self.others:
            node.say("bye")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            link, hello = await nodelink.prove_as_agent(reader, writer, self._key)
        except LinkLost as lost:
            log.warning("a connection to the port of the job's nodes: %s", lost)
            writer.close()
            return
        expected = self._expected.pop(str(hello["node"]), None)
        if expected is None or expected.done():
            await link.close()
        else:
            expected.set_result((link, hello))

    async def _keep(self, node: Remote) -> None:
        """Keep a helper on that node, again and again until it has failed TRIES times in a row."""
        tries, why = 0, ""
        while tries < TRIES and not self._bad.is_set():
            try:
                came, why = await self._one(node, AGAIN_COME_S if node.holds else COME_S)
            except Exception as error:
                # Nobody else hears of it, and without a keeper the job would hold its GPUs and serve nothing.
                log.exception("the helper on node %s", node.name)
                came, why = False, f"the agent cannot go on with its helper: {type(error).__name__}: {error}"
            tries = 0 if came else tries + 1
            log.warning("the helper on node %s is gone: %s", node.name, why)
            await asyncio.sleep(AGAIN_S)
        if not self._bad.is_set():
            self.lost = f"Node {node.name} of this job does not serve: {why}"
            self._bad.set()

    async def _one(self, node: Remote, within_s: float) -> tuple[bool, str]:
        """Run one life of a helper, and return whether it came and why it is gone."""
        said = self._folder / f"node-{node.name}.log"
        expected = self._expected[node.name] = asyncio.get_running_loop().create_future()
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        told = {"address": self.address, "port": port, "key": self._key}
        try:
            srun = await step.start(node.name, "gpuworker.node", told, said, self._env)
        except OSError as error:
            return False, f"srun could not be started: {error}"
        ended = asyncio.create_task(srun.wait())
        try:
            await asyncio.wait([expected, ended], timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if not expected.done():
                how = (
                    f"srun ended with exit code {srun.returncode}"
                    if ended.done()
                    else f"not there within {within_s:.0f} s"
                )
                return False, f"{how}. {logtail.tail(said, 2000).strip()}".strip()
            link, hello = expected.result()
            if hello.get("refusal"):
                await link.close()
                self.lost = f"On node {node.name}: {hello['refusal']}"
                self._bad.set()
                return False, self.lost
            return True, await node.serve(link, hello)
        finally:
            expected.cancel()
            await step.end(srun)
            ended.cancel()

    def logs(self) -> list[tuple[str, Path]]:
        files = [(f"node {node.name}", self._folder / f"node-{node.name}.log") for node in self.others]
        return [(title, path) for title, path in files if path.exists()]


def meeting_address(env: Mapping[str, str]) -> str:
    """Return this node's address on the interface that the engines are told to use; "" where none is named.

    Raises SettingsError for a name that is none of this node's: the engines would fail later, in words of their own."""
    name = next((env[variable] for variable in _FABRIC if env.get(variable)), "")
    # NCCL's own forms: "=ib0" is exactly this one, "^docker" all but some, "ib" every one that begins so.
    if not name or name.startswith("^"):
        return ""
    first, exact = name.lstrip("=").split(",")[0].partition(":")[0], name.startswith("=")
    for one in interfaces.read():
        if one.addresses and (one.name == first or (not exact and one.name.startswith(first))):
            return str(min(one.addresses, key=lambda address: address.version))
    has = interfaces.words(interfaces.read())
    raise SettingsError(
        f"{_FABRIC[0]} or {_FABRIC[1]} names {name}, and this node has {has}: mend the profile's prologue"
    )


def _others(given: Settings, env: Mapping[str, str]) -> list[str]:
    if given.nodes <= 1:
        return []
    listed = env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or ""
    try:
        names = hostlist.expand(listed)
    except hostlist.BadHostlist as error:
        raise SettingsError(f"SLURM_JOB_NODELIST cannot be read: {error}") from None
    if len(names) != given.nodes or given.node not in names:
        raise SettingsError(
            f"This job asked for {given.nodes} nodes and has {len(names)} ({listed or 'SLURM_JOB_NODELIST not set'}), "
            f"of which this one is {given.node}."
        )
    return [name for name in names if name != given.node]


def _named(names: Sequence[str], indices: Sequence[int]) -> list[str]:
    return [names[index] for index in indices if index < len(names)]
