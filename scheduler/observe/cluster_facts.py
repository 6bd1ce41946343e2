"""What Slurm says of the cluster itself: partitions, reservations, and when a job like ours would start.

Asked rarely and kept in rows: these change by the hour, and slurmctld has other things to do. Silence keeps what
was known (invariant 1) and starts nothing anew: only the listing says whether Slurm answers.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max, Q

from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet.models import Cluster, Pilot, ProfileState
from scheduler.jobs.pilots import intent
from scheduler.jobs.spec import spec_of
from scheduler.observe.listing import ClientFor
from scheduler.observe.ways import Site, served
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected, clean
from scheduler.slurm.render import BadDirective
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)

FACTS_EVERY_S = 60.0
ESTIMATE_EVERY_S = 300.0
ACCOUNTS_EVERY_S = 3600.0


def refresh(site: Site, client_for: ClientFor, config: Config, now: float) -> None:
    """Ask what is due: at most one question of each kind per cluster and tick, each at its own pace. A way that does
    not answer one of them is not asked the others in this tick."""
    at = datetime.fromtimestamp(now, UTC)
    for cluster in site.clusters.values():
        open_ = [way for way in _asked(site, cluster.name, config) if not site.error(way)]
        mute: set[Way] = set()
        if open_ and _due(cluster.facts_at, FACTS_EVERY_S, at):
            _describe(cluster, client_for, open_, mute, at)
        if open_ and _due(cluster.accounts_at, ACCOUNTS_EVERY_S, at):
            _ask_accounts(cluster, client_for, [way for way in open_ if way not in mute], at)
        _estimate(site, client_for, config, [way for way in open_ if way not in mute], at)


def _asked(site: Site, cluster: str, config: Config) -> list[Way]:
    """Return the ways of enabled profiles that have been heard already."""
    enabled = served(config).filter(cluster=cluster, enabled=True).select_related("access")
    used = {site.way_of(profile) for profile in enabled}
    return sorted(way for way in used if way in site.ways and site.ways[way].answered_at is not None)


def _describe(
    cluster: Cluster, client_for: ClientFor, ways: Iterable[Way], mute: set[Way], at: datetime
) -> None:
    """Store partitions and reservations. What one way does not tell stays as it was known. `mute` gets those that did
    not answer."""
    cluster.facts_at = at  # also when it fails: a slow slurmctld is not asked again at once
    partitions: dict[str, Any] = {}
    reservations: dict[str, Any] = {}
    whole = True
    for way in ways:
        try:
            client = client_for(way)
            there = client.partitions()
            held = client.reservations()
        except (NoAnswer, NotOffered) as error:
            logger.warning("%s: the facts stay as they were: %s", way.said, error)
            whole = False
            if isinstance(error, NoAnswer):
                mute.add(way)
            continue
        partitions |= {clean(name): _clean(dataclasses.asdict(one)) for name, one in there.items()}
        reservations |= {clean(name): _clean(dataclasses.asdict(one)) for name, one in held.items()}
    if not whole:
        partitions = cluster.partitions | partitions
        reservations = {one["name"]: one for one in cluster.reservations} | reservations
    cluster.partitions, cluster.reservations = partitions, list(reservations.values())
    cluster.save(update_fields=["facts_at", "partitions", "reservations"])


def _ask_accounts(cluster: Cluster, client_for: ClientFor, ways: Iterable[Way], at: datetime) -> None:
    """Store the accounts that we may use, rarely: it is another server's work. A site without accounting has none, and
    nothing is checked against them."""
    cluster.accounts_at = at
    cluster.save(update_fields=["accounts_at"])
    found: dict[str, set[str]] = {}
    for way in ways:
        try:
            for account, qos in client_for(way).accounts().items():
                found.setdefault(account, set()).update(qos)
        except (NoAnswer, NotOffered) as error:
            logger.info("accounts are not known: %s", error)
            return
    cluster.accounts = {clean(account): _clean(sorted(qos)) for account, qos in found.items()}
    cluster.save(update_fields=["accounts"])


def _estimate(site: Site, client_for: ClientFor, config: Config, ways: Collection[Way], at: datetime) -> None:
    """Ask for the profile whose estimate is the oldest, of those that are reached by `ways`: one a tick. Slurm computes
    it against the whole queue."""
    old = Q(state__isnull=True) | Q(state__estimated_at__isnull=True)
    old |= Q(state__estimated_at__lt=at - timedelta(seconds=ESTIMATE_EVERY_S))
    due = served(config).filter(old, enabled=True, pool__isnull=False).select_related("access").distinct()
    ordered = due.order_by("state__estimated_at", "name")
    profile = next((one for one in ordered if site.way_of(one) in ways), None)
    if profile is None:
        return
    state, _ = ProfileState.objects.get_or_create(profile=profile)
    state.estimated_at, state.starts_at = at, None
    state.save(update_fields=["estimated_at", "starts_at"])
    asked = _like_ours(profile, config)
    try:
        starts_at = client_for(site.way_of(profile)).estimate_start(spec_of(asked, config))
    except (Rejected, BadDirective, NoAnswer, NotOffered) as error:
        # The launch itself will be refused, with its reason shown; an estimate has nobody to tell.
        logger.info("no estimate for profile %s: %s", profile.name, error)
        return
    state.starts_at = datetime.fromtimestamp(starts_at, UTC)
    state.save(update_fields=["starts_at"])


def _like_ours(profile: Profile, config: Config) -> Pilot:
    """Return a pilot that is never saved: what a job under this profile would look like, for the model with the most
    nodes. A smaller job starts no later, as a rule; `portal.fleet.facts` reads the estimate of its pools with the same
    rule."""
    fits = Q(nodes=1) | Q(nodes__lte=profile.nodes, gpus=profile.gpus)
    nodes = profile.pool_set.filter(fits).aggregate(most=Max("nodes"))["most"] or 1
    asked = intent(config, profile, nodes=nodes)
    return Pilot(
        id=asked.id,
        cluster=asked.cluster,
        profile=profile,
        job_name=asked.job_name,
        gpus=asked.gpus,
        nodes=asked.nodes,
        mem_mb=asked.mem_mb,
        walltime_min=asked.walltime_min,
    )


def _clean(value: Any) -> Any:
    """Return a fact whose texts a table can hold."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _clean(one) for name, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value


def _due(last: datetime | None, every_s: float, at: datetime) -> bool:
    return last is None or (at - last).total_seconds() >= every_s
