"""The headers with which a pilot asks for a link → the pilot that it is, or why there is no link for it.

Separate from `link`, which knows connections and no database. Answers as `register` and `sync` do: an agent that is told
410 or 409 hears the same from them, and ends.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import partial
from uuid import UUID

import psycopg2

from gpuworker import wire
from portal.db.threads import Database
from portal.fleet.states import PilotState
from portal.transport.reverse import Reverse
from portal.workerapi import wishes
from portal.workerapi.link import Refused


class Admission:
    """The admission of links, which `link.Upgrade` finds in the application's state."""

    def __init__(self, site_key: bytes, database: Database, reverse: Reverse) -> None:
        self._site_key = site_key
        self._database = database
        self.opened = reverse.opened
        self.ready = reverse.ready
        self.leave = reverse.leave
        self._room = reverse.room

    async def admit(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the pilot that this is. Raises Refused."""
        pilot = headers.get(wire.HEADER_PILOT.encode(), b"").decode("latin-1")
        token = headers.get(b"authorization", b"").partition(b" ")[2].strip()
        key = wire.derive_key(self._site_key, "portal", pilot).encode()
        if not hmac.compare_digest(token, key):
            raise Refused(401, "This is not the pilot's token.")
        try:
            row = await self._database.run(partial(wishes.pilot_row, pilot=UUID(pilot)))
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            raise Refused(503, "The database does not answer.") from None
        if row is None:
            raise Refused(503, "This pilot is not known.")
        if row.state == PilotState.ENDED:
            raise Refused(410, "This pilot has ended.")
        if row.agent_job_id is None:
            raise Refused(428, "Register first.")
        if str(row.agent_job_id).encode() != headers.get(wire.HEADER_JOB.encode()):
            raise Refused(409, "Another job is this pilot.")
        if not self._room(pilot):
            raise Refused(503, "This process takes no more links of this pilot.")
        return pilot
