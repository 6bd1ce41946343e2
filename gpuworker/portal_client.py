"""Turns wire values into calls to the portal's `/worker/v1`, and its answers into values or typed errors.

Errors:  PortalError ── Unavailable      no answer, or 5xx: says nothing about us, try again
                     ├─ Refused          401: our token is not accepted
                     ├─ Lost             409: another job is this pilot
                     ├─ IngressUnreached 424: the portal does not reach our ingress
                     ├─ Unregistered     428: the portal does not know our address any more
                     └─ Ended            404, 410: the portal holds this pilot for ended
"""

from __future__ import annotations

import time
from typing import TypeVar

import aiohttp

from gpuworker import wire
from gpuworker.clock import PortalClock

T = TypeVar("T")
CALL_LIMIT_S = 15.0


class PortalError(Exception):
    pass


class Unavailable(PortalError):
    pass


class Refused(PortalError):
    pass


class Lost(PortalError):
    pass


class Unregistered(PortalError):
    pass


class Ended(PortalError):
    pass


class IngressUnreached(PortalError):
    def __init__(self, said: wire.Unreached) -> None:
        super().__init__("; ".join(f"{one.address}: {one.why}" for one in said.tried))
        self.said = said


UNREACHED = 424
_BY_STATUS = {401: Refused, 409: Lost, 404: Ended, 410: Ended, 428: Unregistered}


class PortalClient:
    def __init__(self, secret: wire.Secret) -> None:
        self._url = secret.portal_url.rstrip("/") + "/worker/v1/"
        self._clock = PortalClock()
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {secret.portal_token}", "Content-Type": "application/json"}
        )

    async def close(self) -> None:
        await self._session.close()

    async def register(self, message: wire.Register) -> wire.SyncAnswer:
        return await self._wishes("register", self._clock.registration(message, time.time()))

    async def sync(self, message: wire.Sync) -> wire.SyncAnswer:
        return await self._wishes("sync", self._clock.report(message))

    async def lease(self, message: wire.LeaseAsk) -> wire.LeaseAnswer:
        return await self._call("lease", message, wire.LeaseAnswer, message.wait_s + CALL_LIMIT_S)

    async def results(self, message: wire.Results) -> wire.ResultsAnswer:
        said = self._clock.results(message)
        return await self._call("results", said, wire.ResultsAnswer, 4 * CALL_LIMIT_S)

    async def _wishes(self, verb: str, message: object) -> wire.SyncAnswer:
        sent_at = time.time()
        answer = await self._call(verb, message, wire.SyncAnswer, CALL_LIMIT_S)
        self._clock.heard(answer.at, sent_at, time.time())
        return self._clock.answer(answer)

    async def _call(self, verb: str, message: object, answer: type[T], limit_s: float) -> T:
        timeout = aiohttp.ClientTimeout(total=limit_s)
        try:
            async with self._session.post(
                self._url + verb, data=wire.dumps(message), timeout=timeout, allow_redirects=False
            ) as response:
                if response.status == 200:
                    return wire.loads(answer, await response.read())
                if response.status == UNREACHED:
                    raise IngressUnreached(wire.loads(wire.Unreached, await response.read()))
                raise _BY_STATUS.get(response.status, Unavailable)(f"{verb}: HTTP {response.status}")
        except (aiohttp.ClientError, TimeoutError, wire.WireError) as error:
            raise Unavailable(f"{verb}: {type(error).__name__}: {error}") from None
