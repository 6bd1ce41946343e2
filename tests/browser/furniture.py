"""A furnished site: something of everything that pages show, for looking at them and for checking them all."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from portal.accounts.models import Project, Quota, User
from portal.catalog.models import Environment, Model, Pool
from portal.fleet.models import (
    Candidate,
    Cluster,
    Command,
    Decision,
    FleetEvent,
    Pilot,
    PilotLog,
    PoolState,
    Replica,
    Sample,
)
from portal.ledger.models import Batch, File, Payload, Request, RequestEvent
from portal.notices.models import Delivery, Webhook
from tests.api.world import World, build, candidate_row, pilot_row, replica_row, request_row
from tests.ways import way_row

LOG = "12:00:03 loading weights\n12:00:31 engine is ready\n" * 12


@dataclass(frozen=True, slots=True)
class Furnished:
    """A site with something in every place.

    `done`, `waiting`, `failed` and `batches`: of the owner's; `pilot`: one that is up.
    """

    world: World
    admin: User
    done: Request
    waiting: Request
    failed: Request
    pilot: Pilot
    batches: list[Batch]
    candidate: Candidate

    def names(self) -> dict[str, str]:
        """Return words for what is there, by the keys in addresses."""
        return {
            str(self.done.pk): "done",
            str(self.waiting.pk): "waiting",
            str(self.failed.pk): "failed",
            str(self.pilot.pk): "one",
            **{str(batch.pk): batch.state for batch in self.batches},
        }


def furnish(now: datetime | None = None) -> Furnished:
    now = now or timezone.now()
    world = build()
    world.owner.user.set_password("a berth at the long quay")  # so that there is one to change
    world.owner.user.save()
    admin = User.objects.create_superuser("root", password=None)
    fresh = now + timedelta(hours=1)  # however long somebody looks at the pages
    Cluster.objects.create(name="main", ticked_at=fresh, orphans={}, paused=False)
    way_row(tried_at=fresh, answered_at=fresh)
    Model.objects.filter(name="surf").update(
        description="A small model for questions about waves.", context_tokens=32768
    )
    for name in ("tide/tide-7b-instruct", "tide/tide-70b", "foam"):
        _model(world, name)
    PoolState.objects.create(
        pool_id="foam", failures=3, latched_at=now, reason="Three starts failed: no space left on device."
    )
    Quota.objects.create(level="project", project=world.project, requests_per_min=600)
    pilot = _fleet(world, now)
    _story(world, pilot, now)
    _samples(now)
    _notices(world, now)
    done, waiting, failed = _requests(world, pilot, now)
    return Furnished(world, admin, done, waiting, failed, pilot, _batches(world, now), candidate_row(world))


def _model(world: World, name: str) -> None:
    pool = Pool.objects.create(name=name, environment=Environment.objects.get(), gpus=2)
    pool.profiles.add(world.profile)
    Model.objects.create(name=name, pool=pool, context_tokens=131_072)


def _fleet(world: World, now: datetime) -> Pilot:
    pilot = pilot_row(world, now, gpus=4, node="gpu01", walltime_min=240)
    replica_row(world, pilot, now)
    _replica(pilot, "tide/tide-7b-instruct", "starting", [1, 2], now, phase="Loading shard 3 of 8")
    second = pilot_row(world, now, gpus=2, node="gpu01", job_id=4712, walltime_min=120,
                       slurm_end_at=now + timedelta(minutes=7))  # fmt: skip
    _replica(second, "tide/tide-7b-instruct", "hot", [0, 1], now)
    large = pilot_row(world, now, gpus=8, node="gpu02", job_id=4713, walltime_min=240,
                      slurm_end_at=now + timedelta(minutes=190))  # fmt: skip
    _replica(large, "tide/tide-70b", "hot", list(range(6)), now)
    _replica(large, "tide/tide-7b-instruct", "draining", [6, 7], now, draining_at=now)
    _replica(large, "surf", "asleep", [6], now, asleep_at=now)
    pilot_row(
        world, now, state="pending", job_id=4714, node="", address="", gpus=4, up_at=None, registered_at=None,
        job_started_at=None, slurm_state="PENDING", slurm_reason="Priority", slurm_end_at=None,
    )  # fmt: skip
    ended = pilot_row(world, now, state="ended", job_id=4700, ended_at=now - timedelta(minutes=20),
                      slurm_state="TIMEOUT", end_reason="Job 4700 reached its time limit.")  # fmt: skip
    _replica(ended, "surf", "stopped", [0], now, ended_at=now, end_reason="Its job ended.")
    return pilot


def _replica(
    pilot: Pilot, pool: str, state: str, gpus: list[int], now: datetime, phase: str = "", **fields: object
) -> None:
    Replica.objects.create(
        pilot=pilot, pool_id=pool, model=pool, engine="echo", state=state, gpu_indices=gpus, mem_mb=500, cap=4,
        wanted_at=now - timedelta(minutes=2), started_at=now - timedelta(minutes=1), hot_at=now, phase=phase, **fields,
    )  # fmt: skip


def _story(world: World, pilot: Pilot, now: datetime) -> None:
    PilotLog.objects.create(pilot=pilot, text=LOG, at=now)
    inputs = {"queued": 3, "waited_s": 12.5, "load_s": None}
    for n, kind in enumerate(("launch", "place", "drain_replica")):
        Decision.objects.create(
            at=now - timedelta(minutes=n), kind=kind, pool="surf", pilot=pilot.id,
            reason="3 requests wait for it, and a pilot has a free GPU.", inputs=inputs,
        )  # fmt: skip
    FleetEvent.objects.create(at=now, pilot=pilot.id, old="pending", new="up")
    Command.objects.create(
        kind="log", pilot=pilot, state="done", done_at=now, result="Fetched.", created_by=world.operator.user
    )
    Command.objects.create(kind="wake", pool=world.pool, created_by=world.owner.user)


def _samples(now: datetime) -> None:
    """Make samples of an hour and a half, with a gap in which the loop did not run."""
    minute = now.replace(second=0, microsecond=0)
    Sample.objects.bulk_create(
        Sample(
            cluster="main", at=minute - timedelta(minutes=n), busy=6 + round(4 * math.sin(n / 25)), ready=2,
            loading=2 if n % 40 < 6 else 0, empty=2, asked=4 if n % 60 < 20 else 0, running=40,
            queued_held=max(0, round(9 * math.sin(n / 15))), queued_async=n // 8, queued_batch=max(0, 60 - n), parked=3,
            wait_p50_s=0.4 + n % 7 / 10, wait_p95_s=3 + 2 * math.sin(n / 10), oldest_s=n % 50,
        )
        for n in range(90)
        if not 60 < n < 75
    )  # fmt: skip


def _notices(world: World, now: datetime) -> None:
    """Make a webhook of the owner's that was given up once and is tried again."""
    hook = Webhook.objects.create(user=world.owner.user, url="https://hooks.example.org/berth?key=4711")
    for n, (state, attempts, error) in enumerate((("sent", 1, ""), ("failed", 6, "It answered 500."),
                                                  ("pending", 2, "It does not answer: TimeoutError"))):  # fmt: skip
        at = now - timedelta(hours=9 - 4 * n)
        Delivery.objects.create(
            key=f"batch:{n}", kind="batch_ended", webhook=hook, subject=f"Batch {n} is finished", text="2 of 2.",
            state=state, attempts=attempts, error=error, next_at=now + timedelta(minutes=9), created_at=at,
            ended_at=None if state == "pending" else at,
        )  # fmt: skip


def _requests(world: World, pilot: Pilot, now: datetime) -> tuple[Request, Request, Request]:
    replica = pilot.replicas.get(pool="surf")
    begun = now - timedelta(minutes=3)
    done = request_row(
        world, "done", replica=replica.pk, accepted_at=begun, granted_at=begun + timedelta(seconds=70),
        first_token_at=begun + timedelta(seconds=71), ended_at=begun + timedelta(seconds=80), slurm_s=40.0, load_s=20.0,
        prompt_tokens=120, completion_tokens=340, http_status=200, gpu_type="a100", engine_version="0.11", attempt=2,
    )  # fmt: skip
    Payload.objects.filter(request=done).update(
        result=b'{"choices": [{"text": "A wave is a thing that goes by."}]}'
    )
    RequestEvent.objects.create(
        request_id=done.id, at=begun, kind="requeue", attempt=1, detail="its job ended"
    )
    failed = request_row(
        world, "failed", error_code="model_failed", error_text="Its engine ended.", http_status=500
    )
    waiting = request_row(world, "queued", model="tide/tide-70b", pool="tide/tide-70b")
    other = Project.objects.get(slug="storms")
    for n in range(4):
        request_row(world, "queued", project_id=other.pk, user_id=world.outsider.user.pk,
                    accepted_at=now - timedelta(minutes=n))  # fmt: skip
    request_row(world, "queued", lane="held", holder="gw-1", accepted_at=now - timedelta(seconds=14))
    request_row(world, "parked")
    request_row(world, "running", replica=replica.pk, holder=str(uuid.uuid4()))
    request_row(world, "cancelled")
    return done, waiting, failed


def _batches(world: World, now: datetime) -> list[Batch]:
    """Make a batch that runs, one that is done, and one whose file was bad."""
    whose = {"project_id": world.project.pk, "user_id": world.owner.user.pk}
    made = []
    for state, counts in (("in_progress", (200, 120, 3)), ("completed", (50, 48, 2)), ("failed", (0, 0, 0))):
        file = File.objects.create(
            **whose,
            purpose="batch",
            name=f"{state}.jsonl",
            bytes=9000,
            created_at=now,
            expires_at=now + timedelta(days=30),
        )
        total, completed, failed = counts
        bad = [{"line": 3, "code": "invalid_json", "message": "This line is not JSON.", "param": None}]
        made.append(
            Batch.objects.create(
                **whose, state=state, endpoint="/v1/chat/completions", input_file=file,
                created_at=now - timedelta(hours=1),
                expires_at=now + timedelta(days=1), ended_at=None if state == "in_progress" else now, total=total,
                completed=completed, failed=failed, errors=bad if state == "failed" else [],
                output_file=file if completed else None, error_file=file if failed else None,
            )
        )  # fmt: skip
    return made
