"""One pass of the control loop: observe → decide → act, by one process at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from uuid import UUID

import redis as redis_library

from portal.catalog.models import Pool
from portal.config import Config, config
from portal.db.transaction import loop_lock
from portal.fleet.models import Cluster, Pilot
from scheduler.act import routes
from scheduler.act.decision_rows import tell
from scheduler.act.deeds import act
from scheduler.act.submission import Actor, submit
from scheduler.commands import execution
from scheduler.maintenance import parked, retention, samples
from scheduler.observe import cluster_facts, measures, ways
from scheduler.observe.listing import ClientFor, listen
from scheduler.observe.observation import live_pilots, observe
from scheduler.observe.snapshot import snapshot_of
from scheduler.policy.decide import decide
from scheduler.slurm.clients import client_for as client_for_way
from scheduler.slurm.patience import Patient
from scheduler.slurm.protocol import SlurmClient
from scheduler.slurm.way import Way


def run_once(
    settings: Config,
    redis: redis_library.Redis,
    client_for: ClientFor | None = None,
    clock: Callable[[], float] = time.time,
) -> bool:
    """One tick. False when another process is in one."""
    with loop_lock() as ours:
        if ours:
            with without_gc():
                _tick(settings, redis, client_for or client_of, clock)
        return ours


@contextmanager
def without_gc() -> Iterator[None]:
    """A tick builds tens of thousands of small objects and drops them at its end: looking for cycles among them
    meanwhile finds nothing and takes about a tenth of its time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _tick(
    settings: Config, redis: redis_library.Redis, client_for: ClientFor, clock: Callable[[], float]
) -> None:
    site = ways.site(settings)
    alone = len(site.ways) <= 1
    one_by_one = cache(lambda way: Patient(way, client_for, alone=alone))
    actor = Actor(site, one_by_one, settings, clock)
    now = clock()
    observed = observe(site, redis, listen(site, settings, client_for, now), one_by_one, settings, now)
    act(actor, [*observed.forced])
    execution.execute(actor, lambda: snapshot_of(site, observed, settings, now))
    _resubmit(actor, observed.resubmit)
    parked.unpark()
    snapshot = snapshot_of(site, observed, settings, now)
    act(actor, decide(snapshot))
    routes.sweep(redis, Pool.objects.values_list("name", flat=True), observed.lost)
    retention.sweep(redis, settings, now)
    # Last: nobody waits for these, and Slurm may take its time.
    measures.remember(site.clusters[settings.cluster], live_pilots(), observed.heard, now)
    samples.take(settings.cluster, snapshot, now)
    cluster_facts.refresh(site, one_by_one, settings, now)
    Cluster.objects.filter(pk__in=list(site.clusters)).update(ticked_at=actor.now())


def _resubmit(actor: Actor, pilots: Iterable[UUID]) -> None:
    rows = Pilot.objects.filter(pk__in=list(pilots)).select_related("profile__access").order_by("planned_at")
    for pilot in rows:
        way = actor.site.way_of(pilot.profile)
        held = actor.site.paused(pilot.cluster) or actor.site.error(way)
        if not held and submit(actor, pilot.pk):
            said = "Slurm does not know the job that was asked of it: it is submitted once more."
            tell("resubmit", said, actor.clock(), pilot=pilot.pk)


def client_of(way: Way) -> SlurmClient:
    return client_for_way(way, config().slurm_timeout_s)
