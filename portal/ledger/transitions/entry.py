"""Requests into the ledger: accepted to be run, or recorded once they have been."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.ledger.transitions import provenance
from portal.ledger.transitions.traces import ids_of
from portal.ledger.transitions.values import NewRequest, Recorded


def accept(cur: Cursor, rows: Sequence[NewRequest]) -> list[UUID]:
    """Write accepted requests (→ queued | parked); return the new ones. Accepted they are once the caller has committed.
    A row whose id is known already is left alone."""
    if not rows:
        return []
    taken = ids_of(
        execute_values(
            cur,
            """INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane,
                 priority, order_key, state, attempt, crashes, holder, accepted_at, expires_at)
               VALUES %s ON CONFLICT (id) DO NOTHING RETURNING id""",
            [
                (r.id, r.pool, r.model, r.project_id, r.user_id, r.token_id, r.api, r.stream, r.lane,
                 r.priority, r.order_key, r.state, r.crashes, r.holder, r.accepted_at, r.expires_at)
                for r in rows
            ],
            template="(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,0,%s,%s,%s,%s)",
            page_size=len(rows),
            fetch=True,
        )
    )  # fmt: skip
    new = set(taken)
    bodies = [(r.id, r.body, r.content_type, r.engine_path) for r in rows if r.id in new]
    if bodies:
        execute_values(
            cur,
            "INSERT INTO ledger_payload (request, body, content_type, engine_path) VALUES %s",
            bodies,
            page_size=len(bodies),
        )
    return taken


def record(cur: Cursor, rows: Sequence[Recorded]) -> list[UUID]:
    """Write ended requests in one step (→ done | failed | cancelled): what a client already saw. Return the new ones; no
    payload is kept.

    A column is one parameter: there is a row for every request, and quoting each value of each costs its gateway
    three times as much."""
    if not rows:
        return []
    values = [
        (str(r.id), r.pool, r.model, r.project_id, r.user_id, r.token_id, r.api, r.stream, r.accepted_at.timestamp(),
         r.state, r.holder, str(r.replica), r.granted_at.timestamp(),
         r.first_token_at and r.first_token_at.timestamp(), r.ended_at.timestamp(), r.http_status, r.error_code,
         r.error_text, r.prompt_tokens, r.completion_tokens)
        for r in rows
    ]  # fmt: skip
    cur.execute(
        f"""INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, accepted_at,
             order_key, state, holder, replica, granted_at, first_token_at, ended_at, http_status, error_code,
             error_text, prompt_tokens, completion_tokens, lane, priority, attempt, crashes, revision,
             engine_version, gpu_type, slurm_s, load_s)
           SELECT v.id, v.pool, v.model, v.project_id, v.user_id, v.token_id, v.api, v.stream,
             to_timestamp(v.accepted), v.accepted, v.state, v.holder, v.replica, to_timestamp(v.granted),
             to_timestamp(v.first_token), to_timestamp(v.ended), v.http_status, v.error_code, v.error_text,
             v.prompt_tokens, v.completion_tokens, 'held', 0, 1, 0, {provenance.revision("v")},
             nullif(s.engine_version, ''), s.gpu_type, 0, 0
           FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],
             %s::bool[], %s::float8[], %s::text[], %s::text[], %s::uuid[], %s::float8[], %s::float8[], %s::float8[],
             %s::int[], %s::text[], %s::text[], %s::int[], %s::int[])
             AS v (id, pool, model, project_id, user_id, token_id, api, stream, accepted, state, holder, replica,
             granted, first_token, ended, http_status, error_code, error_text, prompt_tokens, completion_tokens)
             {provenance.REPLICA}
           ON CONFLICT (id) DO NOTHING RETURNING id""",
        [list(column) for column in zip(*values, strict=True)],
    )
    return ids_of(cur.fetchall())
