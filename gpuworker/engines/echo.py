"""The echo engine: answers with what it was told, as a real process, with load times and faults that can be set.

For tests and benchmarks: all around it is what a real engine has around it. See `echo_server` for the arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from gpuworker.engines import arguments
from gpuworker.engines.http_engine import HttpEngine, package_root
from gpuworker.engines.protocol import EngineSpec

ARGS: dict[str, arguments.Kind] = {
    "load_s": "float",
    "tokens_per_s": "float",
    "capacity": "int",
    "max_tokens": "int",
    "fail_on_start": "bool",
    "crash_after_requests": "int",
    "crash_on_text": "text",
    "hang_on_text": "text",
    "garbage_on_text": "text",
    "close_mid_stream_on_text": "text",
    "crash_mid_stream_on_text": "text",
    "device_mb": "int",
    "sleep_frees_nothing": "bool",
    "wake_s": "float",
    "garbage_after_wakes": "int",
    "wake_fails_after": "int",
}


class EchoEngine(HttpEngine):
    name = "echo"
    phases = (("loading weights", "loading weights"),)

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._args = arguments.checked(self.name, spec.args, ARGS)
        self._args.setdefault("capacity", spec.seats)

    def command(self) -> list[str]:
        argv = [self.spec.python, "-m", "gpuworker.engines.echo_server", "--uds", str(self.socket_path)]
        argv += ["--model", self.spec.model, "--args", json.dumps(self._args)]
        if self.spec.others:
            argv += [
                "--world",
                str(len(self.spec.others) + 1),
                "--master",
                self.spec.meet,
                "--port",
                str(self.port),
            ]
        return argv

    def rank_command(self, rank: int) -> list[str]:
        world = str(len(self.spec.others) + 1)
        argv = [self.spec.python, "-m", "gpuworker.engines.echo_rank", "--rank", str(rank), "--world", world]
        return [*argv, "--master", self.spec.meet, "--port", str(self.port)]

    def rank_environment(self, address: str) -> Mapping[str, str]:
        return self.environment()

    async def sleep(self, level: int) -> None:
        await self._told("a request to sleep", f"/sleep?level={level}", self.sleep_limit_s)

    async def wake(self, level: int) -> None:
        await self._told("a request to wake", "/wake_up", self.wake_limit_s)

    async def device_mb(self) -> int | None:
        """Return the MiB that the server says it holds: it has no device."""
        async with self._session(self.sleep_limit_s) as session:
            _, said = await self._asked(session, "how much it holds", "/device_mb")
        return int(said)

    def folders(self) -> list[str]:
        return [*super().folders(), package_root()]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": package_root()}
