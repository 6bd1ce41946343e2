"""The rows of a large site, and of a small one with some of everything, made by PostgreSQL itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from django.db import connection

from portal.db.connections import plain
from portal.ledger import usage

SQL = Path(__file__).with_suffix(".sql")
# Kind of caller → who that is. The manager's is the project of that number.
PEOPLE = {"user": "user-1", "manager": "user-2", "operator": "operator", "administrator": "administrator"}
MANAGED = 3


@dataclass(frozen=True, slots=True)
class Size:
    """A site's size. `mine`: of the finished requests, those of one user."""

    requests: int
    mine: int
    users: int
    models: int
    projects: int
    live: int
    parked: int
    pilots: int
    ended_pilots: int
    decisions: int
    samples: int
    batches: int


SIZES = {
    "small": Size(
        requests=400, mine=120, users=20, models=10, projects=5, live=20, parked=5, pilots=4, ended_pilots=6,
        decisions=150, samples=200, batches=4,
    ),
    "large": Size(
        requests=1_000_000, mine=100_000, users=10_000, models=1_000, projects=500, live=20_000, parked=1_000,
        pilots=300, ended_pilots=5_000, decisions=200_000, samples=11_520, batches=2_000,
    ),
}  # fmt: skip


def fill(size: Size) -> None:
    with connection.cursor() as cur:
        cur.execute(SQL.read_text(), asdict(size))
        # The control loop does it every few seconds: no site has more waiting than one fold takes, nor their room.
        usage.fold(plain(cur), max(0, size.requests - usage.AT_ONCE))
        cur.execute("VACUUM FULL ledger_usagedelta")
        # Identity columns were given numbers: what pages add comes after them.
        for table in ("accounts_user", "accounts_project", "catalog_environment", "catalog_profile"):
            cur.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
            )
        cur.execute("VACUUM ANALYZE")
