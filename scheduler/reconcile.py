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
from portal.fleet.models import Cluster
from scheduler import commands, facts, measures, parked, retention, routes, samples
from scheduler.act import act
from scheduler.listing import ClientFor, Prefix
from scheduler.moves import loop_lock
from scheduler.observe import live_pilots, observe
from scheduler.policy.decide import decide
from scheduler.slurm.cli import CliClient
from scheduler.slurm.protocol import SlurmClient
from scheduler.story import tell
from scheduler.submission import Actor, submit
from scheduler.view import snapshot_of


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
                _tick(settings, redis, client_for or cli_client, clock)
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
    cluster, _ = Cluster.objects.get_or_create(name=settings.cluster)
    actor = Actor(cluster, client_for, settings, clock)
    now = clock()
    observed = observe(cluster, redis, client_for, settings, now)
    act(actor, [*observed.forced])
    commands.execute(actor, lambda: snapshot_of(cluster, observed, settings, now))
    for pilot in observed.resubmit:
        if not (cluster.paused or cluster.error) and submit(actor, pilot):
            said = "Slurm does not know the job that was asked of it: it is submitted once more."
            tell("resubmit", said, clock(), pilot=pilot)
    parked.unpark()
    snapshot = snapshot_of(cluster, observed, settings, now)
    act(actor, decide(snapshot, now))
    routes.sweep(redis, Pool.objects.values_list("name", flat=True), observed.lost)
    retention.sweep(redis, settings, now)
    # Last: nobody waits for these, and Slurm may take its time.
    measures.remember(cluster, live_pilots(cluster.name), observed.heard, now)
    samples.take(cluster.name, snapshot, now)
    facts.refresh(cluster, client_for, settings, now)
    cluster.ticked_at = actor.now()
    cluster.save(update_fields=["ticked_at"])


@cache
def cli_client(prefix: Prefix) -> SlurmClient:
    """Kept, because a client remembers which release of Slurm it talks to."""
    return CliClient(prefix, limit_s=config().slurm_timeout_s)
