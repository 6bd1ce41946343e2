"""Usage by hour: what is counted, once, whatever is done to the requests, the folding and the database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from portal.db.connections import plain
from portal.ledger import transitions, usage
from portal.ledger.models import Request, Usage, UsageDelta
from portal.ledger.usage import Used
from scheduler.maintenance.usage import fold
from tests.api import world as make
from tests.api.world import World

HOUR = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def world(db: None) -> World:
    return make.build()


def ended(world: World, state: str = "done", **fields: Any) -> Request:
    facts: dict[str, Any] = {
        "accepted_at": HOUR,
        "granted_at": HOUR + timedelta(seconds=10),
        "ended_at": HOUR + timedelta(seconds=40),
        "prompt_tokens": 5,
        "completion_tokens": 7,
    }
    return make.request_row(world, state, **(facts | fields))


def told(world: World, step: usage.Step = "hour", since: datetime = HOUR) -> list[Used]:
    with connection.cursor() as cur:
        return usage.of_user(plain(cur), world.owner.user.pk, since, step)


def test_a_request_counts_where_it_ended_with_engine_time_times_gpus(world: World) -> None:
    replica = make.replica_row(world, make.pilot_row(world), gpu_indices=[0, 1])
    ended(world, replica=replica.pk)
    ended(world, "failed", ended_at=HOUR + timedelta(hours=1), replica=None, holder=None, granted_at=None)
    make.request_row(world, "queued")
    expected = [
        Used(HOUR, world.project.pk, "surf", 1, 0, 5, 7, 60.0),
        Used(HOUR + timedelta(hours=1), world.project.pk, "surf", 1, 1, 5, 7, 0.0),
    ]
    assert told(world) == expected
    assert fold() == 2
    assert told(world) == expected and not UsageDelta.objects.exists()
    (day,) = told(world, "day", HOUR.replace(hour=0))
    assert (day.at, day.requests, day.failed, day.gpu_s) == (HOUR.replace(hour=0), 2, 1, 60.0)
    assert told(world, since=HOUR + timedelta(hours=1)) == expected[1:]


def test_of_a_project_everybody_counts(world: World) -> None:
    ended(world)
    ended(world, user_id=world.mate.user.pk)
    ended(world, project_id=world.other.pk)
    with connection.cursor() as cur:
        (found,) = usage.of_projects(plain(cur), [world.project.pk], HOUR, "hour")
    assert found.requests == 2


def test_everybodys_totals_are_right_before_and_after_a_fold(world: World) -> None:
    """And the same by hour and by day, and whichever way they are split."""

    def everybody(kind: usage.Kind, step: usage.Step) -> list[tuple[str | None, int, float]]:
        with connection.cursor() as cur:
            found = usage.of_everybody(plain(cur), kind, 1, HOUR.replace(hour=0), step)
        return [(one.name, one.requests, one.gpu_s) for one in found]

    replica = make.replica_row(world, make.pilot_row(world))
    first = {"model": "surf", "project": str(world.project.pk), "user": str(world.owner.user.pk)}
    for n in (1, 2):
        ended(world, replica=replica.pk)
        ended(world, replica=replica.pk)
        ended(world, replica=replica.pk, model="turf", user_id=world.mate.user.pk, project_id=world.other.pk)
        for _ in ("before", "after"):
            for kind, step in product(get_args(usage.Kind), get_args(usage.Step)):
                assert everybody(kind, step) == [(None, n, 30.0 * n), (first[kind], 2 * n, 60.0 * n)]
            fold()


def test_the_moves_of_the_ledger_are_counted_as_they_end(world: World) -> None:
    row = make.request_row(world)
    now = datetime.now(UTC)
    with connection.cursor() as cur:
        transitions.cancel(plain(cur), [row.id], now, "test")
        transitions.cancel(plain(cur), [row.id], now, "again")
    (found,) = told(world, since=now - timedelta(hours=1))
    assert (found.requests, found.failed) == (1, 0)


def test_a_fold_that_dies_changes_nothing(world: World) -> None:
    ended(world)
    fold()
    ended(world)
    with pytest.raises(RuntimeError), transaction.atomic():
        with connection.cursor() as cur:
            assert usage.fold(plain(cur)) == 1
        raise RuntimeError("killed")
    assert [row.requests for row in told(world)] == [2]
    assert (fold(), fold()) == (1, 0)
    assert [row.requests for row in told(world)] == [2]
    assert {row.step: row.requests for row in Usage.objects.all()} == {"hour": 2, "day": 2}


def test_requests_may_go_their_usage_stays(world: World) -> None:
    row = ended(world)
    row.payload.delete()
    row.delete()
    assert [used.requests for used in told(world)] == [1]


def test_a_correction_of_an_ended_request_corrects_the_sum(world: World) -> None:
    row = ended(world)
    fold()
    Request.objects.filter(pk=row.pk).update(prompt_tokens=6)
    Request.objects.filter(pk=row.pk).update(error_text="nothing that counts")
    assert UsageDelta.objects.count() == 1
    assert [(used.requests, used.prompt_tokens) for used in told(world)] == [(1, 6)]


_STEP = st.tuples(
    st.sampled_from(["done", "failed", "cancelled", "queued", "end", "fold"]), st.integers(0, 3)
)


class TheSums(TestCase):
    @given(st.lists(_STEP, max_size=12))
    @examples(max_examples=30, deadline=None)
    def test_are_those_of_the_requests_whatever_happens(self, steps: list[tuple[str, int]]) -> None:
        world = make.build()
        waiting: list[UUID] = []
        for what, n in steps:
            at = HOUR + timedelta(hours=n)
            if what == "fold":
                fold()
            elif what == "queued":
                waiting.append(make.request_row(world, id=uuid4()).pk)
            elif what == "end":
                with connection.cursor() as cur:
                    transitions.cancel(plain(cur), waiting[: n + 1], at, "test")
            else:
                ended(world, what, ended_at=at + timedelta(minutes=1))
        with connection.cursor() as cur:
            cur.execute(
                """SELECT date_trunc('hour', ended_at, 'UTC'), count(*) FROM ledger_request
                   WHERE ended_at IS NOT NULL GROUP BY 1 ORDER BY 1"""
            )
            real = cur.fetchall()
        assert [(row.at, row.requests) for row in told(world)] == real
        days = told(world, "day", HOUR.replace(hour=0))
        assert sum(row.requests for row in days) == sum(n for _, n in real)
