"""Why this job ends without serving → the portal, where it stands in the pilot's row for people to read.

For whatever part of the gpuworker finds that it cannot serve: the settings, the supervisor's folder, the agent. It
registers only to say so. Bounded, because the job holds GPUs meanwhile; where no portal hears it, the same words are in
the job's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from gpuworker import registration, settings, wire
from gpuworker.exits import JobOver
from gpuworker.portal_client import PortalClient

log = logging.getLogger("berth.lastword")

LIMIT_S = 120.0
MOST_SECRET_BYTES = 64 * 1024


async def tell(secret: wire.Secret, why: str) -> None:
    """Tell the portal; what hinders it is logged."""
    now = time.time()
    job_id, node = settings.job_of(os.environ)
    message = wire.Register(
        pilot=secret.pilot,
        job_id=job_id,
        restart_count=0,
        node=node,
        address="",
        started_at=now,
        agent_at=now,
        agent_version=registration.VERSION,
        gpus=[],
        host_mem_mb=0,
        refusal=why,
    )
    portal = PortalClient(secret)
    try:
        async with asyncio.timeout(LIMIT_S):
            await registration.register(portal, message, LIMIT_S, asyncio.Event(), lambda: False)
    except (JobOver, TimeoutError) as error:
        log.warning("the portal did not hear why: %s", error)
    finally:
        await portal.close()


def tell_now(secret_file: str, why: str) -> None:
    """Tell the portal from a process that has no event loop and perhaps no settings; without a secret tell
    nothing.

    `secret_file` is "-" where its text is on standard input.
    """
    with contextlib.suppress(settings.SettingsError, wire.WireError, OSError):
        if secret_file == "-":
            secret = wire.loads(wire.Secret, sys.stdin.buffer.read(MOST_SECRET_BYTES))
        else:
            secret = settings.read_secret(Path(secret_file))
        asyncio.run(tell(secret, why))
