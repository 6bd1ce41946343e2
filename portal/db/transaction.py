"""A database transaction as the plain cursor that `portal.*.transitions` take.

Separate, because it is the one place where the scheduler reaches below the ORM: moves and the decision
rows written through the ORM must share one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction
from psycopg2.extensions import cursor as Cursor

# Any numbers that no other part of Berth uses: one loop, one who looks after batches, one who folds usage and one who
# sends notices at a time per database.
LOOP_LOCK = 0x6265727468  # "berth"
BATCH_LOCK = 0x6261746368  # "batch"
USAGE_LOCK = 0x7573616765  # "usage"
NOTICES_LOCK = 0x6E6F7469  # "noti"


@contextmanager
def moving() -> Iterator[Cursor]:
    """Open a transaction: commit at the end, roll back on an error. Inside another one it is a savepoint
    of it."""
    with transaction.atomic():
        connection.ensure_connection()
        assert connection.connection is not None
        with connection.connection.cursor() as cur:
            yield cur


@contextmanager
def loop_lock(number: int = LOOP_LOCK) -> Iterator[bool]:
    """Tell whether this process is the loop now, or holds another lock.

    The lock is held by the session that does the work: if the connection is lost, the lock goes and so does
    the power to move anything.
    """
    with connection.cursor() as cur:
        cur.execute("SELECT pg_try_advisory_lock(%s)", (number,))
        taken = bool(cur.fetchone()[0])
    try:
        yield taken
    finally:
        if taken and connection.connection is not None and not connection.connection.closed:
            with connection.cursor() as cur:
                cur.execute("SELECT pg_advisory_unlock(%s)", (number,))
