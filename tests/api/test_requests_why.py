"""GET /api/v1/requests/{id}: `why`, for as long as the request waits."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import redis as redis_library
from django.utils import timezone

from portal.accounts.models import Quota
from portal.admission import quotas
from portal.admission.subjects import Subjects
from portal.db.transaction import moving
from portal.fleet.models import PoolState, ProfileState
from portal.ledger.models import Request, Ticket
from portal.redis import keys
from tests.api.world import BODY, CHAT, World, pilot_row, replica_row, request_row

ASK = {"model": "surf", "api": CHAT, "body": BODY}


def why(world: World, row: Request) -> Any:
    return world.owner.api.send("GET", f"requests/{row.id}").json()["why"]


def test_a_request_for_a_cold_model_hears_of_its_job_and_its_place(world: World) -> None:
    request_row(world, order_key=1.0)
    row = request_row(world, order_key=2.0)
    PoolState.objects.create(pool=world.pool, load_s=100, service_s=8.0)
    ProfileState.objects.create(profile=world.profile, wait_p50_s=360, wait_p90_s=1500)
    pilot = pilot_row(
        world, state="pending", slurm_state="PENDING", slurm_reason="Priority", up_at=None, registered_at=None
    )
    replica_row(world, pilot, state="wanted", started_at=None, hot_at=None)
    told = why(world, row)
    assert told["reason"].startswith("surf is not loaded yet. Its Slurm job 4711 was submitted at ")
    assert "other jobs are ahead of it; jobs like it waited 6–25 min today" in told["reason"]
    assert told["reason"].endswith("1 request is ahead of this one.")
    assert [part["name"] for part in told["parts"]] == ["slurm", "load", "queue"]
    assert 361 < told["eta_s"] <= 360 - 49 + 100


def test_a_request_that_runs_or_has_ended_has_no_why(world: World) -> None:
    assert why(world, request_row(world, "running")) is None
    assert why(world, request_row(world, "done")) is None


def test_a_parked_request_says_which_quota_and_when_it_refills(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    quota = Quota.objects.create(level="project", project=world.project, requests_per_min=2)
    ids = [world.owner.api.send("POST", "requests", ASK).json()["id"] for _ in range(3)]
    parked = Request.objects.get(id=ids[2])
    assert parked.state == "parked"
    told = why(world, parked)
    assert told["reason"].startswith(
        "It is parked: the quota of 2 requests per minute of this project has room for"
    )
    assert told["reason"].endswith(" at the earliest.") and told["eta_s"] is None
    (part,) = told["parts"]
    assert part["name"] == "quota" and 20 < part["seconds"] <= 30
    redis.delete(keys.LIMIT.of("project", world.project.pk, "requests"))
    assert "has room again; others parked before it go first" in why(world, parked)["reason"]
    quota.delete()
    assert "no quota applies any more" in why(world, parked)["reason"]


def test_asking_when_a_quota_refills_takes_nothing_from_it(world: World, redis: redis_library.Redis) -> None:
    Quota.objects.create(level="user", user=world.owner.user, requests_per_min=1, tokens_per_min=1000)
    subjects = Subjects(None, world.owner.user.pk, world.project.pk, "surf")
    for _ in range(3):
        with moving() as cur:
            told = quotas.refill(cur, subjects, 10, time.time())
        assert told is not None and told[1] == 0
    assert not redis.keys(keys.LIMIT.of("*", "*", "*"))


def test_the_place_of_a_client_who_is_away_says_how_it_is_taken_again(world: World) -> None:
    row = request_row(world, lane="held", holder="g1")
    later = timezone.now() + timedelta(minutes=20)
    Ticket.objects.create(request=row, token_id=1, digest="x", expires_at=later)
    told = why(world, row)
    assert (
        f"its place in the queue is kept until {later:%H:%M} UTC" in told["reason"]
        or later.date() != timezone.now().date()
    )
    assert "Send the same request again" in told["next_step"]


def test_a_request_for_a_model_that_left_the_catalog_says_so(world: World) -> None:
    assert "not in the catalog" in why(world, request_row(world, pool="gone"))["reason"]
