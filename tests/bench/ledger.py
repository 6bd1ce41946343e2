"""What the ledger costs: portal.ledger.transitions beside pgbench sending the very same statements.

On a table with 1,000,000 finished rows and a churned queue. Each move runs in transactions of 100 rows; the text
of its statements is kept, the rows are put back as they were, and pgbench replays the text on one connection.

ratio_sql     rows a second through our code over pgbench's; the smallest of accept, claim and finish
accept_http_s requests a second accepted over HTTP (`Prefer: respond-async` → 202), 32 connections
accept_ratio  accept_http_s over the gateway's own rate in the same run (whole answers, null back end)
"""

from __future__ import annotations

import functools
import re
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from devstack import apt, checkout
from devstack.bench import Bench
from devstack.say import StepFailed
from devstack.stack import Stack
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from portal.db import connections
from portal.ledger import transitions
from portal.ledger.transitions import Finish, NewRequest
from tests.bench import _wrk
from tests.bench._null_backend import WHOLE
from tests.bench.gateway import RUN_S, gateway, processes, start_backend

TITLE = "the ledger's moves against the same SQL from pgbench; requests accepted over HTTP"
FINISHED_ROWS = 1_000_000
CHURNED_ROWS = 10_000
ROUNDS = 3
ROWS = 5_000  # of one measurement
BATCH = 100  # rows of one transaction
POOL, HOLDER, REPLICA = "bench", str(uuid.uuid4()), uuid.uuid4()
BODY = b'{"model":"bench","messages":[{"role":"user","content":"What is Slurm?"}],"max_tokens":64}'

# What undoes each move, so that the same statements find the same rows.
_UNDO = {
    "accept": """DELETE FROM ledger_payload WHERE request = ANY(%(ids)s);
                 DELETE FROM ledger_request WHERE id = ANY(%(ids)s)""",
    "claim": """UPDATE ledger_request
                SET state = 'queued', attempt = 0, holder = NULL, replica = NULL, granted_at = NULL
                WHERE id = ANY(%(ids)s)""",
    "finish": """UPDATE ledger_request SET state = 'running', ended_at = NULL WHERE id = ANY(%(ids)s);
                 UPDATE ledger_payload SET result = NULL WHERE request = ANY(%(ids)s)""",
}
_FILL = """INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane, priority,
             order_key, state, attempt, crashes, holder, replica, accepted_at, granted_at, first_token_at, ended_at,
             http_status, prompt_tokens, completion_tokens)
           SELECT gen_random_uuid(), 'pool-' || i %% 20, 'pool-' || i %% 20, i %% 50, i %% 200, i %% 200,
             '/v1/chat/completions', false, 'held', 0, i, 'done', 1, 0, 'gw-' || i %% 4, gen_random_uuid(), t, t, t, t,
             200, 10, 64
           FROM (SELECT i, now() - i * interval '1 second' AS t FROM generate_series(1, %s) i) rows"""


class _Kept(Cursor):
    """A cursor that keeps the text of what it executes."""

    said: list[bytes]

    def execute(self, query: Any, vars: Any = None) -> None:
        super().execute(query, vars)
        assert self.query is not None
        self.said.append(self.query)


@dataclass
class Table:
    """The ledger under measurement: a connection of ours, and the way pgbench gets to the same database."""

    link: Connection
    dsn: str
    folder: Path

    def through(self, moves: Sequence[Callable[[Cursor], object]]) -> tuple[float, list[list[bytes]]]:
        """Make each move in a transaction of its own; return the seconds, and the statements of each."""
        said: list[list[bytes]] = []
        began = time.perf_counter()
        for move in moves:
            with self.link.cursor(cursor_factory=_Kept) as cur:
                cur.said = []
                move(cur)
                said.append(cur.said)
            self.link.commit()
        return time.perf_counter() - began, said

    def replay(self, said: list[list[bytes]]) -> float:
        """Replay the same transactions from pgbench; return the seconds without its start."""
        script = self.folder / "replay.sql"
        with script.open("wb") as out:
            for statements in said:
                out.write(b"BEGIN;\n" + b"".join(one.strip() + b";\n" for one in statements) + b"COMMIT;\n")
        at = urlsplit(self.dsn)
        folder = apt.postgres_bin()
        assert folder is not None
        argv = [str(folder / "pgbench"), "-n", "-c", "1", "-t", "1", "-f", str(script)]
        argv += ["-h", str(at.hostname), "-p", str(at.port), "-U", str(at.username), at.path.lstrip("/")]
        env = {"PATH": apt.SERVER_PATH, "PGPASSWORD": str(at.password)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        took = re.search(r"latency average = ([\d.]+) ms", done.stdout)
        if took is None or "processed: 1/1" not in done.stdout:
            raise StepFailed(f"pgbench: {(done.stderr or done.stdout)[-500:]}")
        return float(took.group(1)) / 1000

    def sql(self, text: str, args: Any = None) -> None:
        with self.link.cursor() as cur:
            cur.execute(text, args)
        self.link.commit()

    def both(self, name: str, ids: list[uuid.UUID], moves: Sequence[Callable[[Cursor], object]]) -> Pair:
        """Measure the move through our code, undo it, and measure it again through pgbench."""
        ours_s, said = self.through(moves)
        self.sql(_UNDO[name], {"ids": ids})
        return Pair(len(ids) / ours_s, len(ids) / self.replay(said))


@dataclass(frozen=True)
class Pair:
    """A pair of figures, in rows a second."""

    ours: float
    pgbench: float


def run(ctx: Bench) -> dict[str, float]:
    apt.install(apt.BENCH, ctx.progress, checkout.cache_dir() / "apt.log")
    with ctx.stack() as stack, processes(ctx) as home, gateway(ctx, stack, start_backend(home)) as (_, ours):
        assert stack.postgres is not None
        link = connections.connect(stack.postgres.dsn, "bench", statement_s=300)
        table = Table(link, stack.postgres.dsn, ctx.folder)
        with ctx.progress.step(f"Fill the ledger with {FINISHED_ROWS:,} finished rows"):
            fill(table)
        with ctx.progress.step(f"Churn: {CHURNED_ROWS:,} rows through the queue"):
            for _ in range(CHURNED_ROWS // ROWS):
                ids = fresh()
                for moves in all_moves(ids).values():
                    table.through(moves)
        pairs: dict[str, list[Pair]] = {}
        for _ in range(ROUNDS):
            with ctx.progress.step("Measure accept, claim, finish"):
                ids = fresh()
                for name, moves in all_moves(ids).items():
                    pairs.setdefault(name, []).append(table.both(name, ids, moves))
        link.close()
        accept_http_s, whole_s = over_http(ctx, stack, ours)
    ratios = {
        name: statistics.median(pair.ours / pair.pgbench for pair in found) for name, found in pairs.items()
    }
    median = statistics.median
    ctx.table(
        ["move", "ours rows/s", "pgbench rows/s", "ratio"],
        [
            (name, median(p.ours for p in found), median(p.pgbench for p in found), ratios[name])
            for name, found in pairs.items()
        ],
    )
    return {
        "ratio_sql": round(min(ratios.values()), 3),
        **{f"ratio_{name}": round(ratio, 3) for name, ratio in ratios.items()},
        "accept_http_s": round(accept_http_s),
        "accept_ratio": round(accept_http_s / whole_s, 3),
    }


def fill(table: Table) -> None:
    """Fill a table without its indexes, which are made again afterwards: that takes a third of the time."""
    with table.link.cursor() as cur:
        cur.execute(
            """SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'ledger_request'
               AND indexname NOT IN (SELECT conname FROM pg_constraint)"""
        )
        indexes = cur.fetchall()
        for name, _ in indexes:
            cur.execute(f'DROP INDEX "{name}"')
        cur.execute("ALTER TABLE ledger_request DISABLE TRIGGER USER")
        cur.execute(_FILL, (FINISHED_ROWS,))
        cur.execute("ALTER TABLE ledger_request ENABLE TRIGGER USER")
        for _, definition in indexes:
            cur.execute(definition)
    table.link.commit()
    table.sql("ANALYZE ledger_request")


def fresh() -> list[uuid.UUID]:
    return [uuid.uuid4() for _ in range(ROWS)]


def all_moves(ids: list[uuid.UUID]) -> dict[str, list[Callable[[Cursor], object]]]:
    """Return the moves of one request's way through the queue, for all of them, a transaction per BATCH."""
    now = datetime.now(UTC)
    batches = [ids[at : at + BATCH] for at in range(0, len(ids), BATCH)]
    news = [[_new(id_, now, at * BATCH + i) for i, id_ in enumerate(b)] for at, b in enumerate(batches)]
    ends = [
        [Finish(i, 1, HOLDER, "done", now, now, 200, None, None, 10, 64, WHOLE) for i in b] for b in batches
    ]
    return {
        "accept": [functools.partial(transitions.accept, rows=rows) for rows in news],
        "claim": [_claim for _ in batches],
        "finish": [functools.partial(transitions.finish, rows=rows) for rows in ends],
    }


def _new(id_: uuid.UUID, now: datetime, place: int) -> NewRequest:
    return NewRequest(
        id=id_, pool=POOL, model=POOL, project_id=1, user_id=1, token_id=1, api="/v1/chat/completions", stream=False,
        lane="async", order_key=now.timestamp() + place * 1e-6, holder=None, accepted_at=now, body=BODY,
    )  # fmt: skip


def _claim(cur: Cursor) -> None:
    now = datetime.now(UTC)
    got = transitions.claim(cur, holder=HOLDER, pool=POOL, replica=REPLICA, room=BATCH, now=now)
    if len(got) != BATCH:
        raise StepFailed(f"a claim of {BATCH} rows moved {len(got)}")


def over_http(ctx: Bench, stack: Stack, ours: Any) -> tuple[float, float]:
    """Return the requests a second that were accepted, and that were answered whole."""
    accepted, answered = [], []
    later = ours.load()
    later = _wrk.Load(later.url, later.token, later.body, (("Prefer", "respond-async"),))
    with ctx.progress.step("Measure requests accepted over HTTP"):
        _wrk.drive(ctx.folder, ours.load(), 32, 1)
        for _ in range(ROUNDS):
            answered.append(_wrk.drive(ctx.folder, ours.load(), 32, RUN_S))
            accepted.append(_wrk.drive(ctx.folder, later, 32, RUN_S))
    assert stack.postgres is not None
    with psycopg2.connect(stack.postgres.dsn) as link, link.cursor() as cur:
        cur.execute("SELECT count(*) FROM ledger_request WHERE lane = 'async' AND state = 'queued'")
        (queued,) = cur.fetchone() or (0,)
    link.close()
    sent = sum(rate.requests for rate in accepted)
    if queued < sent:
        raise StepFailed(f"{sent} requests were answered 202 and {queued} are in the queue")
    return statistics.median(r.per_s for r in accepted), statistics.median(r.per_s for r in answered)
