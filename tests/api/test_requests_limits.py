"""POST /api/v1/requests under quotas: parked where the limit refills, refused where too many wait; and quotas' rules."""

from __future__ import annotations

import pytest
import redis as redis_library
from django.db import IntegrityError, transaction

from portal.accounts.models import Quota
from portal.admission import quotas, redis_calls
from portal.admission.subjects import Subjects
from portal.db.transaction import moving
from portal.ledger.models import Request
from portal.redis import keys
from scheduler.maintenance import parked_rows
from tests.api.world import BODY, CHAT, World

ASK = {"model": "surf", "api": CHAT, "body": BODY}


def test_over_a_limit_that_refills_it_is_parked_not_failed(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    Quota.objects.create(level="project", project=world.project, requests_per_min=1)
    states = [world.owner.api.send("POST", "requests", ASK).json()["state"] for _ in range(2)]
    assert states == ["queued", "parked"]
    assert sent == [(keys.ROWS.of("surf"), "look"), ("tick", "look")], (
        "parked work is not demand (invariant 11)"
    )
    assert world.outsider.api.send("POST", "requests", ASK).json()["state"] == "queued"


def test_the_loop_lets_parked_rows_go_on_in_their_order_as_the_limit_refills(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    Quota.objects.create(level="user", user=world.owner.user, requests_per_min=2)
    Quota.objects.create(level="user", user=world.mate.user, requests_per_min=1)
    mine = [world.owner.api.send("POST", "requests", ASK).json()["id"] for _ in range(5)]
    others = [world.mate.api.send("POST", "requests", ASK).json()["id"] for _ in range(2)]
    assert parked_rows.unpark() == []
    redis.delete(keys.LIMIT.of("user", world.owner.user.pk, "requests"))
    assert [str(id_) for id_ in parked_rows.unpark()] == mine[2:4]
    redis.delete(keys.LIMIT.of("user", world.mate.user.pk, "requests"))
    assert [str(id_) for id_ in parked_rows.unpark()] == others[1:], "one owner's rows do not hide another's"
    assert Request.objects.filter(state="parked").count() == 1


def test_a_quota_that_was_taken_away_frees_what_was_parked(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    quota = Quota.objects.create(level="model", model="surf", tokens_per_min=1)
    states = [world.owner.api.send("POST", "requests", ASK).json()["state"] for _ in range(3)]
    assert states == ["queued", "parked", "parked"]
    quota.delete()
    assert len(parked_rows.unpark()) == 2


def test_too_many_that_wait_are_refused(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    Quota.objects.create(level="project", project=world.project, queued=2)
    answers = [world.owner.api.send("POST", "requests", ASK) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    error = answers[2].json()["error"]
    assert error["code"] == "rate_limit_exceeded" and "2 queued requests of this project" in error["message"]
    assert answers[2]["Retry-After"]
    assert Request.objects.count() == 2


def test_without_redis_a_row_with_a_quota_is_parked_and_one_without_is_queued(
    world: World, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = redis_library.Redis.from_url("redis://127.0.0.1:1/0", retry=None)
    monkeypatch.setattr(redis_calls, "_redis", lambda: away)
    assert world.owner.api.send("POST", "requests", ASK).json()["state"] == "queued"
    Quota.objects.create(level="project", project=world.project, requests_per_min=100)
    assert world.owner.api.send("POST", "requests", ASK).json()["state"] == "parked"
    assert parked_rows.unpark() == []


def test_a_cancelled_parked_row_stays_cancelled(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    Quota.objects.create(level="project", project=world.project, requests_per_min=1)
    world.owner.api.send("POST", "requests", ASK)
    told = world.owner.api.send("POST", "requests", ASK).json()
    assert world.owner.api.send("DELETE", f"requests/{told['id']}").json()["state"] == "cancelled"
    redis.flushall()
    assert parked_rows.unpark() == []


def test_a_quota_has_exactly_one_subject_of_its_level(world: World) -> None:
    for wrong in (
        {"level": "project"},
        {"level": "project", "user": world.owner.user},
        {"level": "user", "user": world.owner.user, "project": world.project},
        {"level": "model", "model": "surf", "requests_per_min": 0},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Quota.objects.create(**wrong)
    Quota.objects.create(level="model", model="surf")
    with pytest.raises(IntegrityError), transaction.atomic():
        Quota.objects.create(level="model", model="surf")


def test_only_a_tokens_own_quota_concerns_it(world: World) -> None:
    Quota.objects.create(level="user", user=world.mate.user, requests_per_min=1)
    with moving() as cur:
        subjects = Subjects(None, world.owner.user.pk, world.project.pk, "surf")
        assert quotas.concerning(cur, subjects) == []
