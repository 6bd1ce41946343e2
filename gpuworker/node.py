"""`python -m gpuworker.node`: the agent's hands on another node of its job, as a job step. It decides nothing.

One line of JSON on its standard input says where the agent is and the key under which both prove themselves: neither an
argument nor an environment variable, which others of the node could read. It tells what this node holds, starts its part
of an engine under a warden, sends what that part logs, and tells its end. It lives as long as the connection to the
agent: without it, its parts are ended, because a part of an engine whose head is gone serves nobody and holds GPUs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from gpuworker import gpus, leftovers, proctree, resources, roots, settings
from gpuworker.engines import wrapping
from gpuworker.engines.process import EngineProcess, engine_environment
from gpuworker.engines.protocol import BadArgument, Wrapping
from gpuworker.nodelink import MOST_LINE, Link, LinkLost, Message, prove_as_helper
from gpuworker.wakeup import log_failure

log = logging.getLogger("berth.node")

CONNECT_S = 10.0
LOG_EVERY_S = 0.3
MOST_LOG = 64 * 1024  # of one part at a time; what comes faster than that is cut
MEASURE_S = 5.0
# Slurm may signal every step of a job at once; the agent says when this one ends.
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Helper:
    def __init__(self, link: Link, folder: Path) -> None:
        self._link = link
        self._folder = folder
        self._parts: dict[str, EngineProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Do what the agent says until it says goodbye or is gone. Raises LinkLost."""
        while (said := await self._link.hear())["kind"] != "bye":
            if said["kind"] == "start":
                self._go(self._run(said))
            elif said["kind"] == "stop" and (part := self._parts.get(str(said["part"]))) is not None:
                self._go(part.stop(float(said["grace_s"])))

    async def end(self) -> None:
        await asyncio.gather(*(part.stop(0) for part in self._parts.values()))
        for task in self._tasks:
            task.cancel()

    def _go(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(log_failure)

    async def _run(self, said: Message) -> None:
        """Run one part from its start to its end, which is always told."""
        name = str(said["part"])
        try:
            await self._part(name, said)
        except Exception as error:
            if (part := self._parts.pop(name, None)) is not None:
                await part.stop(0)
            self._link.say(
                "ended", part=name, code=1, why=f"its helper failed: {type(error).__name__}: {error}"
            )
            raise

    async def _part(self, name: str, said: Message) -> None:
        log_path = self._folder / f"{name}.log"
        try:
            argv, env = await asyncio.to_thread(_prepared, said["start"], str(said["maker"]), self._folder)
            part = self._parts[name] = await EngineProcess.start(argv, env, log_path)
        except (OSError, RuntimeError, roots.Outside, BadArgument) as error:
            self._link.say("ended", part=name, code=1, why=f"it could not be started: {error}")
            return
        watch = asyncio.create_task(self._watch(name, part, log_path))
        code = (await part.ended()).code
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        self._send_log(name, log_path)
        del self._parts[name]
        self._link.say("ended", part=name, code=code, why="")

    async def _watch(self, name: str, part: EngineProcess, log_path: Path) -> None:
        measured = 0.0
        while True:
            self._send_log(name, log_path)
            measured += LOG_EVERY_S
            if measured >= MEASURE_S:
                measured = 0.0
                self._link.say("memory", part=name, mb=await asyncio.to_thread(part.memory_mb))
            await asyncio.sleep(LOG_EVERY_S)

    def _send_log(self, name: str, log_path: Path) -> None:
        """Send what is new in the log, and take it out of the file: nobody reads it here.

        Without the file there is no log.
        """
        try:
            with log_path.open("r+b") as file:
                text = file.read()
                file.truncate(0)
        except OSError as error:
            log.warning("the log of part %s: %s", name, error)
            return
        if not text:
            return
        self._link.say("log", part=name, text=text[-MOST_LOG:].decode(errors="replace"))


def _prepared(start: Message, maker: str, home: Path) -> tuple[list[str], dict[str, str]]:
    """Prepare a part as the agent would start it there. Raise OSError, Outside, BadArgument."""
    if start["path"] and start["roots"]:
        roots.inside(start["path"], start["roots"])
    env = engine_environment(os.environ, gpus.environment(start["gpus"], maker), start["env"])
    around = Wrapping(**{**start["wrapping"], "binds": tuple(start["wrapping"]["binds"])})
    return wrapping.wrapped(
        start["argv"], env, start["env"], around, start["folders"], home, bool(start["gpus"])
    )


async def run(told: Message) -> int:
    given = settings.read(os.environ)
    about: Message = {}
    try:
        holds = await asyncio.to_thread(resources.look, os.environ, given)
        about = {
            "ids": holds.gpus.ids,
            "names": holds.gpus.names,
            "maker": holds.gpus.maker,
            "mem_mb": holds.mem_mb,
        }
    except settings.SettingsError as error:
        about = {"refusal": str(error)}
    link = await _connected(told, given.node, about)
    helper = Helper(link, given.pilot_dir)
    try:
        await helper.serve()
    except LinkLost as lost:
        log.warning("the agent is gone (%s): what runs here is ended", lost)
    finally:
        await helper.end()
        await link.close()
    return 0


async def _connected(told: Message, node: str, about: Message) -> Link:
    """Connect to the agent and prove to each other who is there. Raise LinkLost, OSError."""
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await asyncio.open_connection(told["address"], told["port"], limit=MOST_LINE)
    return await prove_as_helper(reader, writer, str(told["key"]), node, about)


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for number in _NOT_OURS:
        signal.signal(number, lambda *_: None)
    proctree.become_subreaper()
    try:
        told = json.loads(sys.stdin.readline())
        scratch = os.environ.get("BERTH_SCRATCH") or tempfile.gettempdir()
        leftovers.sweep(scratch)
        os.environ["BERTH_PILOT_DIR"] = folder = leftovers.marked_folder(scratch)
    except (OSError, ValueError) as error:
        log.error("not started: %s", error)
        return 1
    try:
        return asyncio.run(run(told))
    except (LinkLost, OSError, TimeoutError, settings.SettingsError) as error:
        log.error("no agent at %s port %s: %s", told.get("address"), told.get("port"), error or "no answer")
        return 1
    finally:
        proctree.kill_descendants(os.getpid())
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
