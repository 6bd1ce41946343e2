"""What an agent that registers says → the same with the address at which this process reached its ingress.

Separate from the verbs because nothing is written here but that the agent spoke: it is what has to be true before a
registration may be (decisions/0022).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from gpuworker import wire
from portal.db.threads import Database
from portal.errors import ApiError
from portal.workerapi import probe, reports

log = logging.getLogger(__name__)

CLOCK_SLACK_S = 2.0


class NotReached(Exception):
    """The ingress that an agent wants to register was reached at no address."""

    def __init__(self, said: wire.Unreached) -> None:
        super().__init__()
        self.said = said


async def reached(said: wire.Register, database: Database, site_key: bytes) -> wire.Register:
    """Return the message with the address at which this process reached the ingress.

    Raise NotReached, probe.Busy, and what `reports.known` raises.
    """
    known = await database.run(partial(reports.known, said=said))
    if said.address.startswith(wire.REVERSE) and said.address != f"{wire.REVERSE}{said.pilot}":
        raise ApiError("invalid_parameter", detail="The links of another pilot are not this one's address.")
    if said.refusal or said.address.startswith(wire.REVERSE):
        return said
    if not said.sent_at:
        # An agent of before an upgrade: its ingress has no PROOF_PATH to ask, and it takes 424 for a portal that is away.
        return said
    found = await probe.first([said.address, *said.others], wire.derive_key(site_key, "ingress", said.pilot))
    if found.address:
        return replace(said, address=found.address)
    why = "; ".join(f"{one.address}: {one.why}" for one in found.tried)
    log.warning("the ingress of pilot %s on %s is not reached: %s", said.pilot, said.node, why)
    await database.run(partial(reports.heard, pilot=said.pilot))
    raise NotReached(wire.Unreached(list(found.tried), known))


def by_our_clock(said: wire.Register, now: float) -> wire.Register:
    """Return the message in our time: an agent that registers first does not know our clock yet.

    What the way may have taken is no difference.
    """
    ahead_s = now - said.sent_at
    if not said.sent_at or abs(ahead_s) < CLOCK_SLACK_S:
        return said
    return replace(said, started_at=said.started_at + ahead_s, agent_at=said.agent_at + ahead_s)
