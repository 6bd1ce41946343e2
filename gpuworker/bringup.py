"""A wish for a replica → an engine that serves it: started, warmed up, and tried at sleeping where it may sleep.

Separate from `replica` because one replica may need several engines in turn: one that does not wake as it was is
replaced by another process, which then is not put to sleep any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from gpuworker.engines import make_engine
from gpuworker.engines.protocol import BadArgument, Engine, EngineSpec, Wrapping
from gpuworker.nodes import Nodes
from gpuworker.roots import Outside, inside
from gpuworker.seats import spare_seats
from gpuworker.sleep import Sleeper, Spoiled
from gpuworker.wire import DesiredReplica

# A model folder → where its weights are nearest.
Nearest = Callable[[str], Awaitable[str]]

log = logging.getLogger("berth.bringup")

# Streams last as long as they last; only connecting to a local socket must be quick.
_NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=None)


class BringUp:
    """One attempt after another to bring an engine up.

    `engine` is the newest one, also while it starts, so that it can be asked for its phase and be ended.
    """

    def __init__(
        self,
        want: DesiredReplica,
        nodes: Nodes,
        python: str,
        nearest: Nearest,
        socket: Path,
        log_path: Path,
    ) -> None:
        self.engine: Engine | None = None
        self.sleeper: Sleeper | None = None
        self.may_sleep = want.may_sleep
        self._want = want
        self._base, *self._others = want.hosted
        self._nodes = nodes
        self._python = python
        self._nearest = nearest
        self._socket = socket
        self._log_path = log_path

    async def run(self, begun: Callable[[], None]) -> tuple[Engine, Sleeper]:
        """Bring up an engine that serves, and call `begun` with each process that is started.

        Raise EngineError; `engine` may be left running then.
        """
        while True:
            self._check_number()
            await self._check_roots()
            await self._nodes.ready()
            path = await self._folder()
            engine = self.engine = make_engine(self._want.engine, self._spec(path))
            sleeper = self.sleeper = Sleeper(engine)
            await engine.start()
            begun()
            await engine.ready()
            await engine.warm_up()
            try:
                await sleeper.trial(self.may_sleep)
            except Spoiled as error:
                await self.spoiled(engine, error)
            else:
                return engine, sleeper

    async def _folder(self) -> str:
        """Return the folder to read the weights from: the nearest copy, unless other nodes read them too,
        which have none."""
        source = self._base.path
        if not source or self._nodes.others:
            return source
        path = await self._nearest(source)
        if path != source:
            log.info("replica %s reads its weights from scratch", self._want.id)
        return path

    def _check_number(self) -> None:
        """Raise BadArgument where more than one model is to be served: no engine here hosts another beside its base."""
        if self._others:
            names = ", ".join(model.name for model in self._others)
            raise BadArgument(f"the {self._want.engine} engine serves one model, and not {names} as well")

    async def _check_roots(self) -> None:
        """Check the roots again before each load: a link may lead elsewhere since the model was registered.

        Raise BadArgument.
        """
        for model in self._want.hosted:
            if not (model.path and model.roots):
                continue
            try:
                await asyncio.to_thread(inside, model.path, model.roots)
            except (Outside, OSError, RuntimeError) as error:
                raise BadArgument(f"model folder {model.path!r} may not be used: {error}") from None

    async def spoiled(self, engine: Engine, error: Spoiled) -> None:
        """End an engine that was spoiled by sleep; the next one does not sleep."""
        log.warning("replica %s gets a new engine, which will not sleep: %s", self._want.id, error)
        self.may_sleep = 0
        await engine.stop(0)

    def connected(self) -> aiohttp.ClientSession:
        """Return the HTTP session for every engine of this replica: they all listen on its socket."""
        # The seats bound the connections; engines keep idle ones open for longer than this end does.
        connector = aiohttp.UnixConnector(str(self._socket), limit=0, keepalive_timeout=60)
        return aiohttp.ClientSession(
            base_url="http://engine",
            connector=connector,
            timeout=_NO_LIMIT,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )

    def _spec(self, path: str) -> EngineSpec:
        want = self._want
        own, *others = self._nodes.spans(want.gpus)
        return EngineSpec(
            model=self._base.name,
            path=path,
            python=want.python or self._python,
            gpus=own.gpus,
            gpu_maker=self._nodes.maker,
            others=tuple(others),
            meet=self._nodes.address if others else "",
            roots=tuple(self._base.roots),
            cap=want.cap,
            seats=want.cap + spare_seats(want.cap),
            args=want.args,
            socket_path=self._socket,
            log_path=self._log_path,
            may_sleep=self.may_sleep,
            wrapping=Wrapping(want.prologue.strip(), want.image, want.image_gpu, tuple(want.binds)),
        )
