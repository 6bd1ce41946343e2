"""What Slurm says of the cluster itself: partitions, reservations, and when a job like ours would start.

Asked rarely and kept in rows: these change by the hour, and slurmctld has other things to do. Silence keeps what
was known (invariant 1) and starts nothing anew: only the listing says whether Slurm answers.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.db.models import Q

from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet.models import Cluster, Pilot, ProfileState
from scheduler.jobspec import job_name, prefix_of, spec_of
from scheduler.listing import ClientFor, Prefix
from scheduler.slurm.protocol import NoAnswer, Rejected
from scheduler.slurm.render import BadDirective

logger = logging.getLogger(__name__)

FACTS_EVERY_S = 60.0
ESTIMATE_EVERY_S = 300.0
ACCOUNTS_EVERY_S = 3600.0


def refresh(cluster: Cluster, client_for: ClientFor, config: Config, now: float) -> None:
    """At most one question of each kind per tick, each at its own pace."""
    if cluster.error or cluster.answered_at is None:
        return
    at = datetime.fromtimestamp(now, UTC)
    prefixes = sorted(
        {
            tuple(map(str, prefix))
            for prefix in Profile.objects.filter(cluster=cluster.name, enabled=True).values_list(
                "submit_prefix", flat=True
            )
        }
    )
    try:
        if prefixes and _due(cluster.facts_at, FACTS_EVERY_S, at):
            _describe(cluster, client_for, prefixes, at)
        if prefixes and _due(cluster.accounts_at, ACCOUNTS_EVERY_S, at):
            _ask_accounts(cluster, client_for, prefixes, at)
        _estimate(cluster, client_for, config, at)
    except NoAnswer as error:
        logger.warning("Slurm's facts stay as they were: %s", error)


def _describe(cluster: Cluster, client_for: ClientFor, prefixes: Iterable[Prefix], at: datetime) -> None:
    cluster.facts_at = at  # also when it fails: a slow slurmctld is not asked again at once
    cluster.save(update_fields=["facts_at"])
    partitions, reservations = {}, []
    for prefix in prefixes:
        client = client_for(prefix)
        partitions.update({name: dataclasses.asdict(p) for name, p in client.partitions().items()})
        reservations += [dataclasses.asdict(r) for r in client.reservations().values()]
    cluster.partitions, cluster.reservations = partitions, reservations
    cluster.save(update_fields=["partitions", "reservations"])


def _ask_accounts(cluster: Cluster, client_for: ClientFor, prefixes: Iterable[Prefix], at: datetime) -> None:
    """Rarely: it is another server's work. A site without accounting has none, and nothing is checked against them."""
    cluster.accounts_at = at
    cluster.save(update_fields=["accounts_at"])
    found: dict[str, set[str]] = {}
    for prefix in prefixes:
        try:
            for account, qos in client_for(prefix).accounts().items():
                found.setdefault(account, set()).update(qos)
        except NoAnswer as error:
            logger.info("accounts are not known: %s", error)
            return
    cluster.accounts = {account: sorted(qos) for account, qos in found.items()}
    cluster.save(update_fields=["accounts"])


def _estimate(cluster: Cluster, client_for: ClientFor, config: Config, at: datetime) -> None:
    """For the profile whose estimate is the oldest: one a tick. Slurm computes it against the whole queue."""
    old = Q(state__isnull=True) | Q(state__estimated_at__isnull=True)
    old |= Q(state__estimated_at__lt=at - timedelta(seconds=ESTIMATE_EVERY_S))
    due = Profile.objects.filter(old, cluster=cluster.name, enabled=True, pool__isnull=False)
    profile = due.order_by("state__estimated_at", "name").first()
    if profile is None:
        return
    state, _ = ProfileState.objects.get_or_create(profile=profile)
    state.estimated_at, state.starts_at = at, None
    state.save(update_fields=["estimated_at", "starts_at"])
    asked = _like_ours(profile, config)
    try:
        starts_at = client_for(prefix_of(asked)).estimate_start(spec_of(asked, config))
    except (Rejected, BadDirective) as error:
        # The launch itself will be refused, with its reason shown; an estimate has nobody to tell.
        logger.info("no estimate for profile %s: %s", profile.name, error)
        return
    state.starts_at = datetime.fromtimestamp(starts_at, UTC)
    state.save(update_fields=["starts_at"])


def _like_ours(profile: Profile, config: Config) -> Pilot:
    """A pilot that is never saved: what a job under this profile would look like."""
    pilot = uuid.uuid4()
    return Pilot(
        id=pilot,
        cluster=profile.cluster,
        profile=profile,
        job_name=job_name(config, str(pilot)),
        gpus=profile.gpus,
        mem_mb=profile.mem_mb,
        walltime_min=profile.walltime_min,
    )


def _due(last: datetime | None, every_s: float, at: datetime) -> bool:
    return last is None or (at - last).total_seconds() >= every_s
