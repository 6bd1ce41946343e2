"""Why this job ends without having served → the portal, where it stands in the pilot's row for people to read.

For whatever part of the gpuworker finds that it cannot serve: the settings, the supervisor's folder, the agent. Bounded,
because the job holds GPUs meanwhile; a portal that is not there finds the same words in the job's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

from gpuworker import settings, wire
from gpuworker.portal_client import PortalClient, PortalError, Unavailable

log = logging.getLogger("berth.lastword")

LIMIT_S = 60.0
RETRY_S = (0.2, 1.0, 3.0, 10.0)


async def tell(portal: PortalClient, message: wire.CannotServe) -> bool:
    """Return whether the portal took it."""
    until = time.monotonic() + LIMIT_S
    tries = 0
    while True:
        try:
            return (await portal.cannot_serve(message)).taken
        except Unavailable as error:
            log.warning("the portal has not heard why this job ends: %s", error)
        except PortalError as error:
            log.warning("the portal does not take why this job ends: %s", error)
            return False
        pause_s = RETRY_S[min(tries, len(RETRY_S) - 1)]
        if time.monotonic() + pause_s > until:
            return False
        await asyncio.sleep(pause_s)
        tries += 1


def tell_now(secret_file: str, why: str) -> None:
    """The same, for a process that has no event loop and perhaps no settings."""
    with contextlib.suppress(settings.SettingsError):
        secret = settings.read_secret(Path(secret_file))
        job_id, node = settings.job_of(os.environ)
        asyncio.run(_once(secret, wire.CannotServe(secret.pilot, job_id, node, why)))


async def _once(secret: wire.Secret, message: wire.CannotServe) -> None:
    portal = PortalClient(secret)
    try:
        await tell(portal, message)
    finally:
        await portal.close()
