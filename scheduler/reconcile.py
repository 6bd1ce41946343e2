"""One pass of the control loop: observe → decide → act, by one process at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import redis as redis_library

from portal.catalog.models import Pool
from portal.config import Config, config
from portal.db.transaction import loop_lock
from portal.fleet.models import Cluster
from scheduler.act import routes
from scheduler.act.actor import Actor
from scheduler.act.dispatch import act
from scheduler.commands import dispatch
from scheduler.maintenance import holders, parked_rows, retention, samples
from scheduler.observe import bad_nodes, cluster_facts, measures, ways
from scheduler.observe.listing import ClientFor, listen
from scheduler.observe.observation import live_pilots, observe, settle
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
    """Run one tick. Return False when another process is in one."""
    with loop_lock() as ours:
        if ours:
            with without_gc():
                _tick(settings, redis, client_for or client_of, clock)
        return ours


@contextmanager
def without_gc() -> Iterator[None]:
    """Leave the garbage collector out. A tick builds tens of thousands of small objects and drops them at its end:
    looking for cycles among them meanwhile finds nothing and takes about a tenth of its time."""
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
    actor = Actor(site, one_by_one, settings, clock, redis)
    now = clock()

    # What was seen, and what follows from it.
    observed = observe(site, redis, listen(site, settings, client_for, now), one_by_one, settings, now)
    act(actor, observed.consequences)
    settle(site, observed, settings)
    # After the ends, which may be the fault of a node.
    act(actor, list(bad_nodes.look(site.clusters, settings, now)))
    holders.give_back(settings, now)

    # What people ask.
    dispatch.execute(actor, lambda: snapshot_of(site, observed, settings, now))
    act(actor, observed.resubmit)

    # What the policies decide.
    parked_rows.unpark()
    snapshot = snapshot_of(site, observed, settings, now)
    act(actor, decide(snapshot))
    routes.sweep(redis, Pool.objects.values_list("name", flat=True), observed.lost)

    # Last: nobody waits for these, and Slurm may take its time.
    retention.sweep(redis, settings, now)
    measures.remember(site.clusters[settings.cluster], live_pilots(), observed.heard, now)
    samples.take(settings.cluster, snapshot, now)
    cluster_facts.refresh(site, one_by_one, settings, now)
    Cluster.objects.filter(pk__in=list(site.clusters)).update(ticked_at=actor.now())


def client_of(way: Way) -> SlurmClient:
    """Return the client of a way, with the site's time-out."""
    return client_for_way(way, config().slurm_timeout_s)
