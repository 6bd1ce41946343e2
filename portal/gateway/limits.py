"""A call and the quotas that concern it → admitted or refused with 429; where nobody waits, what its rates say.

Every level (token, user, project, model) is asked in one Redis call, which takes nothing when one refuses. What is
counted (concurrent, queued) is held by permits that this gateway renews, so a gateway's death gives it back. While
Redis is away nothing is let through uncounted: held requests wait as for a slot, rows are parked.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from portal.acceptance.rule import Rates
from portal.accounts.callers import Caller
from portal.admission.patience import patiently
from portal.admission.pipe import QueueDown
from portal.admission.slots import Route, Slots
from portal.admission.subjects import Quotas, of_subjects, over
from portal.gateway.call import Call
from portal.gateway.directory import Directory
from portal.http.exchange import Headers
from portal.policy.limits import COUNTS, RATES, Level, Quota, Want, duration, wants

log = logging.getLogger(__name__)

_EVERY_S = 5.0

Left = Sequence[tuple[int, float]]  # (remaining, seconds until whole) of each


class Entry(NamedTuple):
    """The result of entering. `route`: its slot, None where there was none or nobody asked for one."""

    asked_for_slot: bool = False
    route: Route | None = None


_FREE = Entry()


class Limits:
    def __init__(self, slots: Slots, directory: Directory, defaults: Mapping[str, Quota]) -> None:
        self._slots = slots
        self._directory = directory
        self._defaults = defaults
        self._taken: dict[str, list[Want]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="gateway-limits")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def enter(self, call: Call) -> Entry:
        """Take what a held request needs, before anything else is done for it, and return what it got.

        Raises ApiError where it is over a limit."""
        quotas = self.concerning(call)
        if not quotas:
            return _FREE
        has_row, entry = call.progress.has_row, _FREE
        asked = wants(quotas, (*RATES, "concurrent"), call.asked.estimated_tokens())
        if has_row:
            # It came again for its place. It was a request when it came first, and its tokens were given back then.
            asked = tuple(replace(want, cost=0) if want.kind == "requests" else want for want in asked)
        if asked and not has_row and not call.key:
            entry = await self._take_with_slot(call, asked)
        elif asked:
            await self._take(call, asked)
        if has_row:
            await self._back_in_line(call, wants(quotas, ("queued",), 0))
        return entry

    async def take_rates(self, call: Call) -> Rates:
        """Take what a request that nobody waits for needs of every rate, or nothing, and say which it was."""
        asked = self._rates(call)
        if not asked:
            return "allow"
        try:
            refused, _, left = await self._slots.limit(call.request, asked)
        except QueueDown:
            return "unknown"
        call.ex.extra += headers(asked, left)
        return "allow" if refused is None else "refuse"

    def give_rates_back(self, call: Call) -> None:
        """Undo `take_rates`: the request was refused after all."""
        if asked := self._rates(call):
            self._slots.settle(call.request, asked, 0)

    def concerning(self, call: Call) -> list[tuple[Level, str, Quota]]:
        """Return the quotas that the request is counted against."""
        return concerning(self._directory.snapshot.quotas, self._defaults, call.caller, call.asked.model)

    async def waits(self, call: Call) -> None:
        """Count a request that has to stand in line. Raises ApiError when too many of its kind do."""
        asked = wants(self.concerning(call), ("queued",), 0)
        if asked:
            await self._take(call, asked)

    def runs(self, call: Call) -> None:
        """Count a request no more among those that wait."""
        taken = self._taken.get(call.request, [])
        if lines := [want for want in taken if want.kind == "queued"]:
            self._taken[call.request] = [want for want in taken if want.kind != "queued"]
            self._slots.settle(call.request, lines, 0)

    def leave(self, call: Call, used: int | None = None, slot: str = "") -> None:
        """Settle what it took; nothing where that has been done. `used`: tokens, None where no engine has said:
        then what was reserved stands if an engine had it. `slot`: the replica at which it still has one, if it never
        stood in line."""
        taken = self._taken.pop(call.request, ())
        if not taken and not slot:
            return
        used = 0 if used is None and call.progress.granted_at is None else used
        back = [want for want in taken if want.kind != "requests"]
        if slot:
            self._slots.leave(call.place, slot, back, used)
        elif back:
            self._slots.settle(call.request, back, used)

    async def _back_in_line(self, call: Call, lines: Sequence[Want]) -> None:
        """Count a request among those that wait, and never refuse it: it has its place."""
        if not lines:
            return
        self._taken.setdefault(call.request, []).extend(lines)
        try:
            await self._slots.keep([(want, call.request) for want in lines])
        except QueueDown as error:
            log.warning("limits: %s; the next round counts request %s", error, call.request)

    async def _take(self, call: Call, asked: Sequence[Want]) -> None:
        ask = functools.partial(self._slots.limit, call.request, asked)
        self._took(call, asked, *await patiently(ask))

    async def _take_with_slot(self, call: Call, asked: Sequence[Want]) -> Entry:
        """Take its slot in the same step, as the usual request goes: it costs one round trip and not two."""
        ask = functools.partial(self._slots.enter, call.place, asked)
        refused, retry_s, left, route = await patiently(ask)
        self._took(call, asked, refused, retry_s, left)
        return Entry(asked_for_slot=True, route=route)

    def _took(
        self, call: Call, asked: Sequence[Want], refused: Want | None, retry_s: float, left: Left
    ) -> None:
        call.ex.extra += headers(asked, left)
        if refused is not None:
            raise over(refused, retry_s)
        self._taken.setdefault(call.request, []).extend(asked)

    def _rates(self, call: Call) -> tuple[Want, ...]:
        return wants(self.concerning(call), RATES, call.asked.estimated_tokens())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            held = [
                (want, request)
                for request, taken in self._taken.items()
                for want in taken
                if want.kind in COUNTS
            ]
            try:
                if held:
                    await self._slots.keep(held)
            except QueueDown as error:
                log.warning("limits: %s", error)


def concerning(
    quotas: Quotas, defaults: Mapping[str, Quota], caller: Caller, model: str
) -> list[tuple[Level, str, Quota]]:
    """Return the quotas of each level for this caller: its own, or else the site's."""
    return of_subjects(quotas, defaults, caller.token_id, caller.user_id, caller.project_id, model)


def headers(asked: Sequence[Want], left: Left) -> Headers:
    """Return OpenAI's x-ratelimit headers, of the tightest limit of each rate."""
    said: Headers = []
    for kind in RATES:
        tightest: tuple[int, float, Want] | None = None
        for want, (remaining, reset_s) in zip(asked, left, strict=True):
            if want.kind == kind and (tightest is None or remaining < tightest[0]):
                tightest = (remaining, reset_s, want)
        if tightest is not None:
            remaining, reset_s, want = tightest
            values: list[tuple[str, Any]] = [
                ("limit", want.limit),
                ("remaining", remaining),
                ("reset", duration(reset_s)),
            ]
            said += [(f"x-ratelimit-{name}-{kind}".encode(), str(value).encode()) for name, value in values]
    return said
