"""How the echo engine sleeps: device memory as a number that it reports, and the faults of engines that sleep badly.

    device_mb            what it says to hold while it is awake; nothing while it sleeps          0
    sleep_frees_nothing  it says that it sleeps, and holds as much as before                      false
    wake_s               seconds that a wake takes                                                0
    garbage_after_wakes  from this wake on its answers are not what they were; 0 = never          0
    wake_fails_after     so many wakes work, the next one does not; 0 = all work                  0

Separate from `echo_server` because nothing of it is about answering.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True, slots=True)
class SleepFaults:
    device_mb: int = 0
    sleep_frees_nothing: bool = False
    wake_s: float = 0.0
    garbage_after_wakes: int = 0
    wake_fails_after: int = 0


@dataclass(slots=True)
class Bed:
    faults: SleepFaults
    asleep: bool = False
    wakes: int = 0

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/sleep", self.sleep)
        app.router.add_post("/wake_up", self.wake_up)
        app.router.add_post("/device_mb", self.held)

    def muddled(self, text: str) -> str:
        after = self.faults.garbage_after_wakes
        return text[::-1] if after and self.wakes >= after else text

    async def sleep(self, _: web.Request) -> web.Response:
        self.asleep = True
        return web.json_response({"status": "sleeping"})

    async def wake_up(self, _: web.Request) -> web.Response:
        await asyncio.sleep(self.faults.wake_s)
        if self.faults.wake_fails_after and self.wakes >= self.faults.wake_fails_after:
            return web.json_response({"error": "out of memory"}, status=500)
        self.wakes += 1
        self.asleep = False
        return web.json_response({"status": "awake"})

    async def held(self, _: web.Request) -> web.Response:
        free = self.asleep and not self.faults.sleep_frees_nothing
        return web.Response(text=str(0 if free else self.faults.device_mb))
