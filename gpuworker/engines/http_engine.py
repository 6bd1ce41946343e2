"""What engines have in common that are a program serving the OpenAI API on a unix socket: start, health, end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from gpuworker import devicemem, gpus, logtail
from gpuworker.endpoints import COMPLETION, EMBEDDING
from gpuworker.engines import wrapping
from gpuworker.engines.process import EngineProcess, engine_environment
from gpuworker.engines.protocol import (
    WARM_UP,
    BadArgument,
    Capability,
    EngineExit,
    EngineFailed,
    EngineSpec,
    EngineStats,
    NotOffered,
    Start,
)
from gpuworker.engines.spread import Spread

if TYPE_CHECKING:
    from gpuworker.remote import Part

POLL_S = 0.05
CANARY, CANARY_TOKENS = "The days of the week are Monday, Tuesday,", 8
ERROR_TAIL_BYTES = 4000
_STARTING, _WARMING = "starting the engine", "answering a first request"


class HttpEngine:
    """An engine that serves HTTP on a socket of its own.

    Sub-classes give the command that serves the model; `phases` maps words in its log to words for people.
    """

    name: str
    capabilities: frozenset[Capability] = frozenset()
    phases: tuple[tuple[str, str], ...] = ()
    warm_up_limit_s: float = 120.0
    sleep_limit_s: float = 300.0  # weights of the largest models take their time over the bus
    wake_limit_s: float = 3600.0  # may read them from disk; the replica's load limit ends it earlier

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.socket_path = spec.socket_path
        self.version = ""
        self.phase = _STARTING
        self.port = 0  # on `spec.meet`, where the parts on several nodes find each other
        self._process: EngineProcess | Spread | None = None
        self._log_read = 0

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        raise NotImplementedError

    def rank_command(self, rank: int) -> list[str]:
        """Return the command of its part on another node; `self.port` is where the ranks meet.

        Raise BadArgument where it has none.
        """
        raise BadArgument(f"the {self.name} engine does not run over several nodes")

    def rank_environment(self, address: str) -> Mapping[str, str]:
        """Return what that part's process gets beside its node's own environment; `address` is the node's."""
        return {}

    def read_version(self, answer: Mapping[str, Any]) -> str:
        """Read the version from the engine's answer to GET /version."""
        return str(answer.get("version", ""))

    def folders(self) -> list[str]:
        """Return the folders that it reads on the node, to be seen inside an image, too."""
        return [self.spec.path] if self.spec.path else []

    def _wrapped(self, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return its environment and command as wrapped; runs in a thread, for it looks where links in the
        folder lead."""
        spec, own = self.spec, self.environment()
        home, with_gpus = spec.log_path.parent, bool(spec.gpus)
        return wrapping.wrapped(self.command(), env, own, spec.wrapping, self.folders(), home, with_gpus)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        # vLLM leaves its socket behind, and a stale one refuses connections like an engine that died.
        self.socket_path.unlink(missing_ok=True)
        if self.spec.log_path.exists():  # of an engine that this one replaces
            self._log_read = self.spec.log_path.stat().st_size
        if self.spec.others:
            self.port = free_port(self.spec.meet)
            for log_path in self.rank_logs():
                log_path.unlink(missing_ok=True)
        visible = gpus.environment(self.spec.gpus, self.spec.gpu_maker)
        env = engine_environment(os.environ, visible, self.environment())
        argv, env = await asyncio.to_thread(self._wrapped, env)
        try:
            self._process = own = await EngineProcess.start(argv, env, self.spec.log_path)
        except OSError as error:
            raise EngineFailed(f"the {self.name} engine could not be started: {error}") from None
        if self.spec.others:
            self._process = Spread(own, self._start_ranks())

    def _start_ranks(self) -> list[Part]:
        """Start its parts on other nodes. Raise EngineFailed, BadArgument; the part here is running then."""
        parts = []
        for rank, (span, log_path) in enumerate(zip(self.spec.others, self.rank_logs(), strict=True), 1):
            assert span.node is not None
            start = Start(
                argv=self.rank_command(rank),
                env=self.rank_environment(span.node.address),
                gpus=span.gpus,
                path=self.spec.path,
                roots=list(self.spec.roots),
                folders=self.folders(),
                wrapping=self.spec.wrapping,
            )
            parts.append(span.node.start(start, log_path))
        return parts

    def rank_logs(self) -> list[Path]:
        """Return the files here into which the parts on other nodes log."""
        own = self.spec.log_path
        return [own.with_name(f"{own.stem}.rank{rank}.log") for rank in range(1, len(self.spec.others) + 1)]

    async def ready(self) -> None:
        process = self._process
        assert process is not None, "start() comes first"
        # Local sockets only: no proxy from the environment, no time-out but the poll's own.
        connector = aiohttp.UnixConnector(str(self.socket_path))
        async with aiohttp.ClientSession(connector=connector, base_url="http://engine") as session:
            while process.running():
                if self.socket_path.exists() and await self._healthy(session):
                    async with session.get("/version") as answer:
                        self.version = self.read_version(await answer.json())
                    return
                self._read_phase()
                await asyncio.sleep(POLL_S)
        ended, tail = await process.ended(), self._tail()
        how = ended.why or f"ended with exit code {ended.code}"
        said = wrapping.explained(tail) or f"the {self.name} engine, while starting: {how}"
        raise EngineFailed(f"{said}\n{tail}")

    async def warm_up(self) -> None:
        """Send a first request, which pays for what it pays for: kernels, caches, a tokenizer.

        An engine that refuses serves something else, e.g. embeddings, and is asked for that; refusing is
        answering, too.
        """
        self.phase = _WARMING
        await self._first("a first request", "Hello", max_tokens=1)

    async def canary(self) -> str:
        """Ask it greedily and alone: the same words or the same vector come as long as the weights are the
        same."""
        path, body = await self._first("a check question", CANARY, max_tokens=CANARY_TOKENS, temperature=0)
        try:
            said = json.loads(body)
            if path == COMPLETION.engine_path:
                return str(said["choices"][0]["text"])
            return " ".join(f"{number:.2f}" for number in said["data"][0]["embedding"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise EngineFailed(f"the {self.name} engine answered a check question with nonsense") from None

    async def _first(self, what: str, text: str, **how: Any) -> tuple[str, bytes]:
        """Return which path answered, and its answer; the last refusal where nothing did."""
        path, body = "", b""
        async with self._session(self.warm_up_limit_s) as session:
            for path, asks in (
                (COMPLETION.engine_path, {"prompt": text, **how}),
                (EMBEDDING.engine_path, {"input": text}),
            ):
                status, body = await self._asked(session, what, path, {"model": self.spec.model, **asks})
                if status < 400:
                    break
        return path, body

    @contextlib.asynccontextmanager
    async def _session(self, limit_s: float) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.UnixConnector(str(self.socket_path))
        limit = aiohttp.ClientTimeout(total=limit_s)
        async with aiohttp.ClientSession(
            connector=connector, base_url="http://engine", timeout=limit
        ) as session:
            yield session

    async def _asked(
        self, session: aiohttp.ClientSession, what: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes]:
        try:
            async with session.post(path, json=body, headers={WARM_UP: "1"}) as answer:
                said = await answer.read()
        except TimeoutError:
            raise EngineFailed(
                f"the {self.name} engine did not answer {what} within {session.timeout.total:.0f} s"
                f"\n{self._tail()}"
            ) from None
        except aiohttp.ClientError:
            raise EngineFailed(f"the {self.name} engine broke off {what}\n{self._tail()}") from None
        # vLLM says 501 of what a model cannot do.
        if answer.status >= 500 and answer.status != 501:
            raise EngineFailed(
                f"the {self.name} engine answered {what} with status {answer.status}\n{self._tail()}"
            )
        return answer.status, said

    async def _healthy(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get("/health", timeout=aiohttp.ClientTimeout(total=5)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _read_phase(self) -> None:
        """Move `phase` along with new lines of the log. It is cheap: most of the time there are none."""
        with self.spec.log_path.open("rb") as log:
            log.seek(self._log_read)
            new = log.read()
        self._log_read += len(new)
        for line in new.decode(errors="replace").splitlines():
            for mark, words in self.phases:
                if mark in line:
                    self.phase = words

    def _tail(self) -> str:
        return self.log_tail(ERROR_TAIL_BYTES).strip()

    async def ended(self) -> EngineExit:
        assert self._process is not None
        return await self._process.ended()

    async def stats(self) -> EngineStats:
        # In a thread: it reads all of /proc, which on a large node takes a while.
        return EngineStats(mem_mb=await asyncio.to_thread(self._process.memory_mb) if self._process else 0)

    async def load_adapter(self, name: str, path: str) -> None:
        raise NotOffered(f"the {self.name} engine does not load adapters at run time")

    async def unload_adapter(self, name: str) -> None:
        raise NotOffered(f"the {self.name} engine does not load adapters at run time")

    async def sleep(self, level: int) -> None:
        raise NotOffered(f"the {self.name} engine does not sleep")

    async def wake(self, level: int) -> None:
        raise NotOffered(f"the {self.name} engine does not sleep")

    async def device_mb(self) -> int | None:
        if self.pid is None:
            return None
        if not self.spec.gpus:
            return (await self.stats()).mem_mb
        return await asyncio.to_thread(devicemem.held_mb, self.pid)

    async def _told(self, what: str, path: str, limit_s: float, body: dict[str, Any] | None = None) -> bytes:
        """Return the answer to a POST. Raise EngineFailed for anything but success."""
        async with self._session(limit_s) as session:
            status, said = await self._asked(session, what, path, body)
        if status >= 400:
            raise EngineFailed(f"the {self.name} engine answered {what} with status {status}")
        return said

    async def stop(self, grace_s: float) -> None:
        if self._process:
            await self._process.stop(grace_s)
        self.socket_path.unlink(missing_ok=True)

    def log_tail(self, most_bytes: int) -> str:
        if not self.spec.others:
            return logtail.tail(self.spec.log_path, most_bytes)
        titles = [
            "rank 0",
            *(f"rank {r} on {s.node.name}" for r, s in enumerate(self.spec.others, 1) if s.node),
        ]
        return logtail.sections(
            list(zip(titles, [self.spec.log_path, *self.rank_logs()], strict=True)), most_bytes
        )


def free_port(address: str) -> int:
    """Return a port that nobody has there now. Raise EngineFailed."""
    try:
        where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(where[0], socket.SOCK_STREAM) as link:
            link.bind(where[4])
            return int(link.getsockname()[1])
    except OSError as error:
        raise EngineFailed(f"no port on {address} for the engine's ranks to meet: {error}") from None


def package_root() -> str:
    return str(Path(__file__).resolve().parent.parent.parent)
