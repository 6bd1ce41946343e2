"""Decisions that hold something back, or let it go again → the rows that the next look heeds: of pools, profiles,
clusters and nodes."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from portal.catalog.models import Profile
from portal.db.transaction import moving
from portal.fleet.models import BadNode, Cluster, PoolState, ProfileState
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.moments import moment
from scheduler.policy.consequences import ExcludeNode, PauseCluster, ReadmitNode
from scheduler.policy.decisions import HoldPool, HoldProfile

logger = logging.getLogger(__name__)


def hold_pool(actor: Actor, decision: HoldPool) -> bool:
    """Store what holds a pool back: its failures in a row, the next try, a latch, and the reason."""
    hold = decision.hold
    state, _ = PoolState.objects.get_or_create(pool_id=decision.pool)
    was_latched = state.latched_at
    state.failures, state.reason = hold.failures, hold.reason
    state.retry_at = moment(hold.retry_at)
    state.latched_at = (was_latched or actor.now()) if hold.latched else None
    with moving():
        state.save(update_fields=["failures", "reason", "retry_at", "latched_at"])
        write_decided(decision, actor.now(), pool=decision.pool)
    return True


def hold_profile(actor: Actor, decision: HoldProfile) -> bool:
    """Latch a profile with the reason."""
    latch_profile(actor, Profile.objects.get(name=decision.profile), decision)
    return True


def latch_profile(actor: Actor, profile: Profile, decision: HoldProfile, pilot: UUID | None = None) -> None:
    """Submit nothing more under a profile. `pilot`: the one whose job was refused, for the row."""
    with moving():
        latch = {"latched_at": actor.now(), "reason": decision.reason}
        ProfileState.objects.update_or_create(profile=profile, defaults=latch)
        write_decided(decision, actor.now(), pilot=pilot)


def pause_cluster(actor: Actor, decision: PauseCluster) -> bool:
    """Pause a cluster. Return False where it was paused already."""
    actor.site.clusters[decision.cluster].paused = True
    with moving():
        if not Cluster.objects.filter(pk=decision.cluster, paused=False).update(paused=True):
            return False
        write_decided(decision, actor.now())
    return True


def exclude_node(actor: Actor, decision: ExcludeNode) -> bool:
    """Leave a node out of new jobs for a while."""
    logger.warning("%s", decision.reason)
    with moving():
        BadNode.objects.update_or_create(
            cluster=decision.cluster,
            node=decision.node,
            defaults={
                "failures": decision.failures,
                "excluded_until": actor.now() + timedelta(seconds=decision.for_s),
                "reason": decision.last_reason,
            },
        )
        write_decided(decision, actor.now())
    return True


def readmit_node(actor: Actor, decision: ReadmitNode) -> bool:
    """Forget a node's failures, once. Return False where they were forgotten already."""
    with moving():
        out = BadNode.objects.filter(cluster=decision.cluster, node=decision.node, failures__gt=0)
        if not out.update(failures=0, updated_at=actor.now()):
            return False
        write_decided(decision, actor.now())
    return True
