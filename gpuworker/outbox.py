"""Turns ended rows into few calls to the portal: batched for 50 ms, or 200 where many end, kept and sent again
until taken.

Lost only with the process; the portal then gives the rows back, because no sync names them any more.
"""

from __future__ import annotations

import asyncio
import logging

from gpuworker import wire
from gpuworker.portal_client import PortalClient, PortalError

log = logging.getLogger("berth.outbox")

BATCH_S = 0.05
# Somebody may wait for one of few; of many, a call for each handful costs the portal more than the time is worth.
BUSY_ROWS = 4
BUSY_BATCH_S = 0.2
BATCH_ROWS = 200
BATCH_BYTES = 8 * 2**20
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


class Outbox:
    def __init__(self, pilot: str, portal: PortalClient) -> None:
        self._pilot = pilot
        self._portal = portal
        self._waiting: list[wire.RowResult] = []
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def put(self, result: wire.RowResult) -> None:
        self._waiting.append(result)
        self._emptied.clear()
        self._filled.set()

    def rows(self) -> list[wire.RowRef]:
        return [wire.RowRef(r.request, r.attempt) for r in self._waiting]

    async def flushed(self, within_s: float) -> bool:
        """Return True once everything put so far has been taken."""
        try:
            async with asyncio.timeout(within_s):
                await self._emptied.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        failures = 0
        most = BATCH_ROWS
        gather_s = BATCH_S
        while True:
            await self._filled.wait()
            await asyncio.sleep(gather_s if failures == 0 else RETRY_S[min(failures, len(RETRY_S)) - 1])
            batch = self._batch(most)
            try:
                answer = await self._portal.results(wire.Results(self._pilot, batch))
            except PortalError as error:
                failures += 1
                # One row the portal cannot store must not hold up the others: ever smaller batches, and the
                # head goes to the back.
                most = max(1, most // 4)
                if most == 1:
                    self._waiting.append(self._waiting.pop(0))
                log.warning("%d results not delivered, kept: %s", len(self._waiting), error)
                continue
            failures = 0
            most = min(BATCH_ROWS, most * 2)
            gather_s = BATCH_S if len(batch) < BUSY_ROWS else BUSY_BATCH_S
            if answer.late:
                log.info("%d results came too late: their rows are no longer ours", len(answer.late))
            # Appended to while we waited; the batch is the head.
            del self._waiting[: len(batch)]
            if not self._waiting:
                self._filled.clear()
                self._emptied.set()

    def _batch(self, most: int) -> list[wire.RowResult]:
        size = 0
        for number, result in enumerate(self._waiting[:most]):
            size += len(result.body)
            if size > BATCH_BYTES and number:
                return self._waiting[:number]
        return self._waiting[:most]
