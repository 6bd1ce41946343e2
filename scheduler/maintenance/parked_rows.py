"""Parked rows → queued, as their quotas refill.

Separate because it is the one place where a row waits for its owner's limits and not for the fleet: parked work
is not demand (invariant 11) until it comes back from here.
"""

from __future__ import annotations

import logging
from typing import NamedTuple
from uuid import UUID

import redis as redis_library

from gpuworker.wire import estimate_at
from portal.admission import quotas
from portal.admission.subjects import Subjects
from portal.db.rows import named
from portal.db.transaction import moving
from portal.ledger import transitions as ledger
from portal.policy import estimate
from portal.redis import hints

logger = logging.getLogger(__name__)

# Of one project, in one look. With more parked than this, those of one token may hide another's of its project.
MOST = 1000


class _ParkedRow(NamedTuple):
    """A parked request. `length` and `body`: of what is asked; the body only where it is short."""

    id: UUID
    token: int | None
    user: int
    project: int
    model: str
    pool: str
    api: str
    length: int
    body: bytes | None

    @property
    def subjects(self) -> Subjects:
        """Return whose limits concern it."""
        return Subjects(self.token, self.user, self.project, self.model)


def unpark() -> list[UUID]:
    """Look once at the parked rows, lowest order_key first, and return those that are queued now. Those of one owner
    keep their order: once one is refused, the others wait too."""
    with moving() as cur:
        cur.execute(
            # The recursion steps from project to project through the index, however many rows each has parked.
            """WITH RECURSIVE owners (id) AS (
                 SELECT min(project_id) FROM ledger_request WHERE state = 'parked'
                 UNION ALL
                 SELECT (SELECT min(project_id) FROM ledger_request WHERE state = 'parked' AND project_id > owners.id)
                 FROM owners WHERE owners.id IS NOT NULL)
               SELECT r.id, r.token_id AS token, r.user_id AS user, r.project_id AS project, r.model, r.pool, r.api,
                 coalesce(r.batch_length, octet_length(p.body)) AS length,
                 CASE WHEN octet_length(p.body) <= %s THEN p.body END AS body
               FROM owners CROSS JOIN LATERAL (
                 SELECT * FROM ledger_request
                 WHERE state = 'parked' AND project_id = owners.id ORDER BY order_key LIMIT %s) r
               LEFT JOIN ledger_payload p ON p.request = r.id ORDER BY r.order_key, r.id""",
            (estimate.LONGEST, MOST),
        )
        rows = named(cur, _ParkedRow)
        limits = quotas.concerning_each(cur, {row.subjects for row in rows})
    refused: set[Subjects] = set()
    allowed: dict[UUID, str] = {}
    try:
        for row in rows:
            if row.subjects in refused:
                continue
            tokens = estimate.of_row(row.length, row.body, estimate_at(row.api))
            if quotas.take(limits[row.subjects], row.id, tokens):
                allowed[row.id] = row.pool
            else:
                refused.add(row.subjects)
    except (redis_library.RedisError, OSError) as error:
        logger.warning("limits: %s; parked rows wait", error)
    if not allowed:
        return []
    with moving() as cur:
        moved = ledger.unpark(cur, allowed)
    for pool in {allowed[id_] for id_ in moved}:
        hints.rows_waiting(pool)
    return moved
