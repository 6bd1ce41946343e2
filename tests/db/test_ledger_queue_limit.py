"""The limit of waiting requests in the ledger: what is counted, and that of two at once one waits for the other."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from portal.acceptance.rule import Facts
from portal.acceptance.submission import enter
from portal.catalog.entries import ModelEntry
from portal.errors import ApiError
from portal.ledger import queue_limit, transitions
from portal.ledger.transitions import NewRequest
from portal.policy.limits import Level, Want

MODEL = ModelEntry("surf", "surf", "llm", True, frozenset(), None, 0)
FACTS = Facts("surf", MODEL, project=1)


def row(**changes: Any) -> NewRequest:
    values: dict[str, Any] = {
        "id": uuid.uuid4(), "pool": "surf", "model": "surf", "project_id": 1, "user_id": 2, "token_id": 3,
        "api": "/v1/embeddings", "stream": False, "lane": "async", "order_key": 1.0, "holder": None,
        "accepted_at": datetime.now(UTC), "body": b"{}",
    }  # fmt: skip
    return NewRequest(**values | changes)


def queued(level: Level, subject: object, limit: int = 10) -> Want:
    return Want(level, str(subject), "queued", limit, 1)


@pytest.fixture
def second(test_dsn: str) -> Any:
    link = psycopg2.connect(test_dsn)
    yield link
    link.close()


def test_what_waits_is_counted_by_each_level_and_up_to_the_limit(pg: Connection) -> None:
    with pg.cursor() as cur:
        ended = row()
        transitions.accept(
            cur,
            [
                row(),
                row(state="parked"),
                row(lane="held", holder="g"),
                row(token_id=None, user_id=5, project_id=6, model="other"),
                ended,
            ],
        )
        transitions.cancel(cur, [ended.id], datetime.now(UTC), "test")
        subjects: list[tuple[Level, object]] = [
            ("token", 3), ("user", 2), ("project", 1), ("model", "surf"), ("user", 5),
        ]  # fmt: skip
        counted = {
            (level, subject): queue_limit.count(cur, queued(level, subject)) for level, subject in subjects
        }
        assert counted == {
            ("token", 3): 3, ("user", 2): 3, ("project", 1): 3, ("model", "surf"): 3, ("user", 5): 1,
        }  # fmt: skip
        assert queue_limit.count(cur, queued("project", 1, limit=2)) == 2
    pg.rollback()


def test_the_second_of_two_at_once_waits_for_the_first_and_counts_it(
    pg: Connection, second: Connection
) -> None:
    waits = [queued("project", 1, limit=1), queued("user", 2, limit=1)]
    answers: list[object] = []
    with pg.cursor() as cur:
        enter(cur, row(), FACTS, waits)
    other = threading.Thread(target=_try, args=(second, waits[::-1], answers))
    other.start()
    _until(lambda: _waiting_for_a_lock(pg) == 1, "the second to wait")
    assert answers == []
    pg.commit()
    other.join(60)
    assert answers == ["rate_limit_exceeded"]


def test_one_under_other_limits_does_not_wait(pg: Connection, second: Connection) -> None:
    answers: list[object] = []
    with pg.cursor() as cur:
        enter(cur, row(), FACTS, [queued("project", 1, limit=1)])
    _try(second, [queued("project", 2, limit=1)], answers)
    pg.rollback()
    assert answers == ["accepted"]


def _try(link: Connection, waits: list[Want], answers: list[object]) -> None:
    try:
        with link.cursor() as cur:
            enter(cur, row(), FACTS, waits)
        answers.append("accepted")
    except ApiError as error:
        answers.append(error.code)
    link.rollback()


def _waiting_for_a_lock(link: Connection) -> int:
    with link.cursor() as cur:
        cur.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        (found,) = cur.fetchone() or (0,)
    return int(found)


def _until(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not look():
        assert time.monotonic() < end, what
        threading.Event().wait(0.01)
