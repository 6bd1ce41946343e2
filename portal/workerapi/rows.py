"""Async and batch rows out to pilots that have room, and their results back in. Each is one transaction."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from gpuworker import wire
from portal.batches.claims import with_bodies
from portal.batches.contents import Contents
from portal.ledger import transitions as ledger

_MOST_AT_ONCE = 256  # rows in one answer
# Of their bodies, or a single row: prompts may be long, and the whole answer lies in memory several times.
_MOST_BYTES = 4 * 2**20
_LONGEST_TYPE = 100  # characters, as the ledger keeps them


def claim(cur: Cursor, pilot: UUID, room: dict[str, int], contents: Contents) -> list[wire.LeasedRow]:
    """Hand out rows for the hot replicas of this pilot that have room. A pilot that drains gets none. A line of a batch
    whose file is gone fails here."""
    cur.execute(
        """SELECT r.id, r.pool_id, r.cap FROM fleet_replica r JOIN fleet_pilot p ON p.id = r.pilot_id
           WHERE p.id = %s AND p.state IN ('submitted', 'pending', 'up') AND r.state = 'hot'""",
        (str(pilot),),
    )
    now = datetime.now(UTC)
    rows: list[ledger.Claimed] = []
    for id_, pool, cap in cur.fetchall():
        replica, places = UUID(str(id_)), room.get(str(id_), 0)
        most = min(places, _MOST_AT_ONCE - len(rows))
        bytes_left = _MOST_BYTES - sum(row.span.length if row.span else len(row.body) for row in rows)
        if most <= 0 or bytes_left <= 0:
            continue
        rows += ledger.claim(
            cur,
            holder=str(pilot),
            pool=pool,
            replica=replica,
            room=most,
            now=now,
            idle=places >= cap or not _in_use(cur, replica),
            most_bytes=bytes_left,
        )
    return [_leased(row, body) for row, body in with_bodies(cur, rows, contents, str(pilot), now)]


def _in_use(cur: Cursor, replica: UUID) -> bool:
    """Say whether it runs anything that the ledger knows of. A pilot's polls may have divided an idle replica's places
    among them: none of them asks for all, and a suspect, which needs all, would wait for ever."""
    cur.execute(
        "SELECT 1 FROM ledger_request WHERE replica = %s AND state = 'running' LIMIT 1", (str(replica),)
    )
    return cur.fetchone() is not None


def _leased(row: ledger.Claimed, body: bytes) -> wire.LeasedRow:
    return wire.LeasedRow(
        str(row.id),
        row.attempt,
        str(row.replica),
        row.api,
        row.alone,
        body,
        row.content_type,
        row.engine_path,
    )


def pools_of(cur: Cursor, pilot: UUID) -> list[str]:
    """Return the pools for which this pilot could run rows: whose hints wake its poll."""
    cur.execute(
        "SELECT DISTINCT pool_id FROM fleet_replica WHERE pilot_id = %s AND state IN ('wanted', 'starting', 'hot')",
        (str(pilot),),
    )
    return [pool for (pool,) in cur.fetchall()]


def give_back(cur: Cursor, pilot: UUID, rows: list[wire.LeasedRow], poison_after: int) -> None:
    """Take back the rows of a pilot that left before it had its answer."""
    lost = [
        ledger.Interrupted(UUID(row.request), row.attempt, str(pilot), "its pilot left the poll")
        for row in rows
    ]
    ledger.interrupt(cur, lost, datetime.now(UTC), poison_after)


def take(cur: Cursor, said: wire.Results, poison_after: int) -> wire.ResultsAnswer:
    """Write ends and returns of rows, each fenced by attempt and holder: what is late moves nothing."""
    ends = [_finish(row, said.pilot) for row in said.results if row.outcome != "back"]
    backs = [
        ledger.Interrupted(
            UUID(row.request), row.attempt, said.pilot, (row.error_code or "given back")[:200], row.crashed
        )
        for row in said.results
        if row.outcome == "back"
    ]
    moved = ledger.finish(cur, ends)
    queued, poisoned = ledger.interrupt(cur, backs, datetime.now(UTC), poison_after)
    taken = {str(id_) for id_ in (*moved, *queued, *poisoned)}
    named = list(dict.fromkeys(row.request for row in said.results))
    return wire.ResultsAnswer(
        taken=[request for request in named if request in taken],
        late=[request for request in named if request not in taken],
    )


def _finish(row: wire.RowResult, pilot: str) -> ledger.Finish:
    failed = row.outcome == "failed"
    return ledger.Finish(
        id=UUID(row.request),
        attempt=row.attempt,
        holder=pilot,
        state=row.outcome,
        ended_at=datetime.fromtimestamp(row.ended_at, UTC),
        first_token_at=None
        if row.first_token_at is None
        else datetime.fromtimestamp(row.first_token_at, UTC),
        http_status=row.status or None,
        error_code=(row.error_code or "engine_error")[:40] if failed else None,
        error_text=_message(row.body) if failed else None,
        prompt_tokens=_count(row.prompt_tokens),
        completion_tokens=_count(row.completion_tokens),
        result=row.body,
        result_type=row.content_type[:_LONGEST_TYPE] or wire.JSON,
    )


def _count(said: int | None) -> int | None:
    """Return a number of tokens; None where the engine counts none."""
    return None if said is None else max(0, said)


def _message(body: bytes) -> str:
    """Return what the ledger says of an engine's error. Its message is in the result, which only its owner sees; here
    stands that there is one."""
    try:
        kind = json.loads(body)["error"]["type"]
        return f"The engine answered with an error ({str(kind)[:60]})."
    except (ValueError, TypeError, KeyError, RecursionError):
        return "The engine answered with an error."
