"""Waiting for a grant: a cold model is a state with a position, an ETA and a reason, not an error.

A stream is told so by comments that its client skips; an answer in one piece is held for as long as its client
will wait, and then told when to come again. Separate from `serve` because it decides only when waiting ends.
"""

from __future__ import annotations

import asyncio
import math
import time

from portal.acceptance.asked import Asked
from portal.admission import patience
from portal.admission.keeper import Waiter
from portal.admission.pipe import QueueDown
from portal.admission.slots import Route, Slots
from portal.config import Config
from portal.errors import ApiError
from portal.fleet.explain import in_line
from portal.fleet.phase import Phase
from portal.gateway.directory import Directory
from portal.http.exchange import Exchange

# A grant that comes at once needs no heartbeat, and an error that comes at once keeps its proper status.
FIRST_BEAT_S = 0.25
LOOK_S = 1.0
_RETRY_MOST_S = 60
_RETRY_UNKNOWN_S = 30


class Hold:
    def __init__(self, slots: Slots, directory: Directory, config: Config) -> None:
        self._slots = slots
        self._directory = directory
        self._config = config

    async def wait(self, ex: Exchange, asked: Asked, waiter: Waiter, since: float) -> Route:
        """Return where the request may run. Raises ApiError when it is not going to. `since`: monotonic, its arrival."""
        until = math.inf if asked.stream else since + self.patience_s(ex)
        beat_at = 0.0 if ex.streaming else time.monotonic() + FIRST_BEAT_S
        while True:
            now = time.monotonic()
            pause_s = min(LOOK_S, until - now, (beat_at if asked.stream else math.inf) - now)
            await asyncio.wait({waiter.granted}, timeout=max(0.0, pause_s))
            if waiter.granted.done():
                return waiter.granted.result()
            now = time.monotonic()
            phase = self._directory.phase(waiter.place.pool).named(asked.model)
            self._check(phase, now, until)
            if asked.stream and now >= beat_at:
                await ex.comment(await self._standing(waiter, phase))
                beat_at = time.monotonic() + self._config.heartbeat_s

    def _check(self, phase: Phase, now: float, until: float) -> None:
        if phase.residency == "unavailable":
            raise ApiError("model_unavailable", detail=phase.reason)
        down_since = self._slots.down_since
        if down_since is not None and now - down_since > patience.PATIENCE_S:
            raise ApiError("queue_unavailable", retry_after_s=_RETRY_UNKNOWN_S)
        if now >= until:
            raise starting(phase)

    async def _standing(self, waiter: Waiter, phase: Phase) -> dict[str, object]:
        """Return position, ETA and reason, as a heartbeat carries them."""
        try:
            position = await self._slots.position(waiter.place)
        except QueueDown:
            position = None
        told = in_line(phase, position)
        reason = told.says or "All places are taken."
        return {"position": position, "eta_s": told.eta_s or None, "reason": reason}

    def patience_s(self, ex: Exchange) -> float:
        """Return the smaller of our limit and the client's own time-out less 10 s, so that it hears from us first."""
        try:
            announced = float(ex.header(b"x-stainless-read-timeout") or math.inf)
        except ValueError:
            announced = math.inf
        if math.isnan(announced):
            announced = math.inf
        return min(self._config.max_wait_s, max(announced - 10.0, 1.0))


def starting(phase: Phase) -> ApiError:
    eta_s = phase.eta_s or _RETRY_UNKNOWN_S
    return ApiError(
        "model_starting",
        detail=phase.says or "All its slots are in use.",
        retry_after_s=int(min(max(eta_s, 1), _RETRY_MOST_S)),
    )
