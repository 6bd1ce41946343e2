"""Turns what this job is into the portal's first answer, with the patience for a portal that is down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from gpuworker import exits, settings, wire
from gpuworker.exits import JobOver
from gpuworker.nodes import Nodes
from gpuworker.portal_client import Ended, Lost, PortalClient, Refused, Unavailable
from gpuworker.wakeup import woken

log = logging.getLogger("berth.registration")

VERSION = "0.1.0"
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


REFUSAL_LIMIT_S = 120.0


def of(
    given: settings.Settings, nodes: Nodes, pilot: str, urls: Sequence[str], agent_at: float
) -> wire.Register:
    return wire.Register(
        pilot=pilot,
        job_id=given.job_id,
        restart_count=given.restart_count,
        node=nodes.name,
        address=urls[0],
        others=list(urls[1:]),
        started_at=given.started_at or agent_at,
        agent_at=agent_at,
        agent_version=VERSION,
        gpus=nodes.gpu_ids,
        host_mem_mb=nodes.mem_mb,
    )


async def register(
    portal: PortalClient,
    message: wire.Register,
    limit_s: float,
    wake: asyncio.Event,
    told_to_end: Callable[[], bool],
) -> wire.SyncAnswer:
    """Raises JobOver when this job is not the pilot's, or after `limit_s` without a portal."""
    tries = 0
    while True:
        try:
            answer = await portal.register(message)
        except (Lost, Ended) as error:
            raise JobOver(exits.LOST, f"this job is not the pilot's: {error}") from None
        except Refused as error:
            raise JobOver(exits.REFUSED, f"the portal does not accept our token: {error}") from None
        except Unavailable as error:
            log.warning("not registered yet: %s", error)
        else:
            if message.refusal:
                return answer
            log.info(
                "registered as pilot %s, job %d, ingress %s", message.pilot, message.job_id, message.address
            )
            return answer
        if time.time() - message.agent_at > limit_s:
            raise JobOver(exits.SILENT, f"no portal for {limit_s:.0f} s")
        if told_to_end():
            raise JobOver(exits.DONE, "told to end before the portal answered")
        wake.clear()
        await woken(wake, RETRY_S[min(tries, len(RETRY_S) - 1)])
        tries += 1


async def refuse(given: settings.Settings, secret: wire.Secret, why: str) -> int:
    """Registers only to say why this job cannot serve, so that people read it where they look; the exit code.

    Where no portal hears it within REFUSAL_LIMIT_S it stands in the job's log, and Slurm tells of the exit."""
    now = time.time()
    portal = PortalClient(secret)
    message = wire.Register(
        pilot=secret.pilot,
        job_id=given.job_id,
        restart_count=given.restart_count,
        node=given.node,
        address="",
        started_at=given.started_at or now,
        agent_at=now,
        agent_version=VERSION,
        gpus=[],
        host_mem_mb=0,
        refusal=why,
    )
    try:
        async with asyncio.timeout(REFUSAL_LIMIT_S):
            await register(portal, message, REFUSAL_LIMIT_S, asyncio.Event(), lambda: False)
    except (JobOver, TimeoutError) as error:
        log.warning("the portal did not hear why: %s", error)
    finally:
        await portal.close()
    return exits.UNFIT
