"""A large fleet in the tables, and the control loop over it: `python -m tests.bench._tick_world seed|run …`.

A process of its own, so that its memory is the loop's and not the bench's. Rows, reports in Redis and the
queue are real; Slurm is text as squeue prints it, because nobody has 500 jobs for a bench.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import django

django.setup()

import redis as redis_library  # noqa: E402
from django.db import connection, transaction  # noqa: E402

from gpuworker.wire import ObservedReplica, Sync  # noqa: E402
from portal.catalog.models import Engine, Environment, Model, Pool, Profile, settle_bases  # noqa: E402
from portal.config import config  # noqa: E402
from portal.fleet.models import Decision, GpuClaim, Pilot, Replica  # noqa: E402
from portal.redis import keys  # noqa: E402
from scheduler.jobs.spec import job_name  # noqa: E402
from scheduler.reconcile import run_once  # noqa: E402
from scheduler.slurm import listing  # noqa: E402
from scheduler.slurm.protocol import Jobs, NoAnswer  # noqa: E402

# Of ten models nine are resident; the tenth has work and waits for room that nobody has.
RESIDENT_OF_TEN = 9


class PrintedSlurm:
    """A client that answers with the text of a listing. It starts nothing, because the fleet is full."""

    def __init__(self, text: str) -> None:
        self._text = text

    def jobs(self) -> Jobs:
        return listing.jobs(self._text)

    def __getattr__(self, verb: str) -> Any:
        raise NoAnswer(f"{verb} is not measured here")


def seed(pilots: int, models: int, rows: int) -> None:
    profile = Profile.objects.create(name="gpu", partition="gpu", gpus=1, mem_mb=64_000, max_pilots=pilots)
    environment = Environment.objects.create(name="echo", engine=Engine.ECHO)
    names = [f"model-{n:04}" for n in range(models)]
    Pool.objects.bulk_create(
        Pool(name=name, environment=environment, mem_mb=16_000, keep_alive_s=86_400) for name in names
    )
    Pool.profiles.through._default_manager.bulk_create(
        [Pool.profiles.through(pool_id=name, profile_id=profile.pk) for name in names]
    )
    with transaction.atomic():
        Model.objects.bulk_create(Model(name=name, pool_id=name, path="/models/x") for name in names)
        settle_bases(names)
    resident = names[: models * RESIDENT_OF_TEN // 10]
    now = datetime.now(UTC)
    fleet = [_pilot(profile, n, now) for n in range(pilots)]
    Pilot.objects.bulk_create(fleet)
    replicas = [
        Replica(
            id=uuid.uuid4(), pilot=pilot, pool_id=resident[n % len(resident)], model=resident[n % len(resident)],
            engine="echo", state="hot", gpu_indices=[0], mem_mb=16_000, cap=32, wanted_at=now, started_at=now, hot_at=now,
        )
        for n, pilot in enumerate(fleet)
    ]  # fmt: skip
    Replica.objects.bulk_create(replicas)
    GpuClaim.objects.bulk_create(
        GpuClaim(pilot=replica.pilot, gpu=0, replica=replica) for replica in replicas
    )
    with connection.cursor() as cur:
        cur.execute(
            """INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane, priority,
                 order_key, state, attempt, crashes, accepted_at)
               SELECT gen_random_uuid(), p, p, i %% 50, i %% 200, i %% 200, '/v1/chat/completions', false, 'async', 0, i,
                 'queued', 0, 0, now() - i * interval '10 milliseconds'
               FROM (SELECT i, 'model-' || lpad((i %% %s)::text, 4, '0') AS p FROM generate_series(1, %s) i) rows""",
            (models, rows),
        )
        cur.execute("ANALYZE")


def _pilot(profile: Profile, n: int, now: datetime) -> Pilot:
    pilot = uuid.uuid4()
    return Pilot(
        id=pilot, cluster=profile.cluster, profile=profile, state="up", job_name=job_name(config(), str(pilot)),
        job_id=1000 + n, agent_job_id=1000 + n, gpus=1, mem_mb=64_000, walltime_min=240, planned_at=now, submitted_at=now,
        up_at=now, registered_at=now, job_started_at=now, node=f"gpu{n:04}", address="http://127.0.0.1:1", gpu_ids=["0"],
    )  # fmt: skip


def run(ticks: int) -> dict[str, float]:
    settings = dataclasses.replace(config(), slurm_min_interval_s=0.0)
    redis = redis_library.Redis.from_url(settings.redis_url)
    pilots = list(Pilot.objects.order_by("job_id"))
    slurm = PrintedSlurm("".join(_printed(pilot) for pilot in pilots))
    took = []
    for n in range(ticks):
        _report(redis, pilots, n)
        began = time.perf_counter()
        assert run_once(settings, redis, lambda prefix: slurm)
        took.append(time.perf_counter() - began)
    return {
        "first_s": took[0],
        "median_s": sorted(took[1:])[(ticks - 1) // 2],
        "longest_s": max(took[1:]),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "decisions": float(Decision.objects.count()),
        "ended": float(Pilot.objects.filter(state="ended").count()),
    }


def _printed(pilot: Pilot) -> str:
    starts = pilot.planned_at.strftime("%Y-%m-%dT%H:%M:%S")
    ends = (pilot.planned_at + timedelta(hours=4)).strftime("%Y-%m-%dT%H:%M:%S")
    fields = (str(pilot.job_id), "RUNNING", "gpu", starts, starts, ends, pilot.node, "None", pilot.job_name)
    return listing.RECORD + listing.FIELD.join(fields) + "\n"


def _report(redis: redis_library.Redis, pilots: Iterable[Pilot], seq: int) -> None:
    """Write reports as the worker API keeps them: every pilot is busy with its model."""
    now = time.time()
    live = dict(Replica.objects.filter(state="hot").values_list("pilot_id", "id"))
    pools = dict(Replica.objects.filter(state="hot").values_list("pilot_id", "pool_id"))
    pipe = redis.pipeline(transaction=False)
    for pilot in pilots:
        if pilot.pk not in live or pilot.job_id is None:
            continue
        seen = ObservedReplica(
            str(live[pilot.pk]), pools[pilot.pk], pools[pilot.pk], "hot", "", 32, 0, 32, now, now, None, "", 0, 9000,
            "1", served=100 + seq, busy_s=150.0,
        )  # fmt: skip
        sync = Sync(str(pilot.pk), pilot.job_id, seq, now, False, "", [seen], [], None)
        said = json.dumps({**dataclasses.asdict(sync), "received_at": now})
        pipe.set(keys.SYNC.of(pilot.pk), said, ex=600)
    pipe.execute()


if __name__ == "__main__":
    verb, *numbers = sys.argv[1:]
    if verb == "seed":
        seed(*map(int, numbers))
    print(json.dumps(run(*map(int, numbers)) if verb == "run" else {}))
