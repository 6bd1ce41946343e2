"""One way to a plain psycopg2 connection: opened, for the processes that have no Django, or taken out of Django's own.

Separate so that the writer, the directory and the worker API agree on types, time-outs and names.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import register_uuid

# Adapts uuid.UUID, which the transitions take and give, in every connection of this process.
register_uuid()  # type: ignore[no-untyped-call]


def connect(url: str, name: str, *, autocommit: bool = False, statement_s: float = 20.0) -> Connection:
    """Open a connection seen in pg_stat_activity as `name`. Raise psycopg2.OperationalError."""
    link: Connection = psycopg2.connect(
        url,
        application_name=name[:63],
        connect_timeout=5,
        keepalives=1,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        options=f"-c statement_timeout={int(statement_s * 1000)} -c timezone=UTC",
    )
    link.autocommit = autocommit
    return link


def plain(cur: Any) -> Cursor:
    """Return psycopg2's own cursor of Django's, which the transitions take, inside Django's transaction."""
    inner = cur.cursor
    assert isinstance(inner, Cursor)
    return inner
