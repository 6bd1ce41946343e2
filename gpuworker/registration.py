"""Turns what this job is into the portal's first answer, with the patience for a portal that is down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from gpuworker import exits, settings, wire
from gpuworker.exits import CannotServe, JobOver
from gpuworker.nodes import Nodes
from gpuworker.portal_client import Ended, IngressUnreached, Lost, PortalClient, Refused, Unavailable
from gpuworker.wakeup import woken

log = logging.getLogger("berth.registration")

VERSION = "0.1.0"
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# The portal did not reach our ingress: a route or a firewall may be late, a switch may start again. With 4 s for each
# try less than a minute in all, because GPUs are held meanwhile.
REACH_RETRY_S = (2.0, 4.0, 7.0, 12.0)
# One that is registered already may serve through others; its way back may take longer.
KNOWN_RETRY_S = (2.0, 6.0, *(15.0,) * 20)


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
    *,
    served: bool = False,
    ports: tuple[int, int] | None = None,
) -> wire.SyncAnswer:
    """Register with the portal until it accepts. `served`: this agent was registered before.

    Raise JobOver when this job is not the pilot's, or after `limit_s` without a portal; raise CannotServe
    when the portal does not reach the ingress.
    """
    tries = unreached = 0
    while True:
        pause_s = RETRY_S[min(tries, len(RETRY_S) - 1)]
        try:
            answer = await portal.register(message)
        except (Lost, Ended) as error:
            raise JobOver(exits.LOST, f"this job is not the pilot's: {error}") from None
        except Refused as error:
            raise JobOver(exits.REFUSED, f"the portal does not accept our token: {error}") from None
        except IngressUnreached as error:
            log.warning("the portal does not reach this ingress: %s", error)
            pauses = KNOWN_RETRY_S if served or error.said.known else REACH_RETRY_S
            if unreached >= len(pauses):
                raise CannotServe(exits.UNREACHED, _unreached(error.said, message.node, ports)) from None
            pause_s = pauses[unreached]
            unreached += 1
        except Unavailable as error:
            log.warning("not registered yet: %s", error)
        else:
            if message.refusal:
                return answer
            urls = ", ".join([message.address, *message.others])
            log.info("registered as pilot %s, job %d, ingress %s", message.pilot, message.job_id, urls)
            return answer
        if time.time() - message.agent_at > limit_s:
            raise JobOver(exits.SILENT, f"no portal for {limit_s:.0f} s")
        if told_to_end():
            raise JobOver(exits.DONE, "told to end before the portal answered")
        wake.clear()
        await woken(wake, pause_s)
        tries += 1


def _unreached(said: wire.Unreached, node: str, ports: tuple[int, int] | None) -> str:
    where = "; ".join(f"{one.address}: {one.why}" for one in said.tried)
    these = (
        f"ports {ports[0]}-{ports[1]}" if ports else "all ports (or those of a range that door_ports names)"
    )
    return (
        f"The portal does not reach its ingress on {node} ({where}). Open {these} from the portal to the nodes, set "
        "door_address to a network of the nodes that the portal can reach, or use link: reverse."
    )
