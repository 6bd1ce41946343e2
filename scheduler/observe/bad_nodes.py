"""Starts that failed, by node → nodes that new jobs leave out for a while.

A broken node empties fast, so that Slurm sends the next job there, too: without this, one bad node fails every
model in turn. A broken model fails everywhere, and must not take the cluster's nodes with it: a node is to
blame only for what went well elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import QuerySet

from portal.config import Config
from portal.fleet.models import BadNode, Replica
from portal.fleet.states import ReplicaState
from scheduler.policy.consequences import ExcludeNode, ReadmitNode

HISTORY = timedelta(days=1)
_ONE_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# sbatch's line has an end; a cluster with more bad nodes than this needs its administrator.
_MOST = 50


@dataclass(frozen=True, slots=True)
class Start:
    """One replica's start on a node, and how it went."""

    node: str
    profile: int
    pool: str
    at: float
    good: bool
    registered: bool  # the agent spoke: prologue, network and portal are reachable there
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A node that explains failures in a row, and the reason of the last one."""

    node: str
    failures: int
    reason: str


def suspects(
    starts: Sequence[Start], excluded: Collection[str], forgiven: Mapping[str, float], after: int
) -> Iterator[Suspect]:
    """Yield the nodes with `after` failures in a row that nothing but the node explains. Pure.

    `forgiven`: failures before it do not count. A failed engine counts if its pool became ready on another node; an
    agent that never spoke, if one of the same profile did elsewhere. While no node is left out, the latter counts
    without such a witness: on a fresh installation the bad node may be all that was tried."""
    good = {node for node in {start.node for start in starts} if node not in excluded}
    for node in sorted(good):
        mine = sorted((s for s in starts if s.node == node and s.at > forgiven.get(node, 0.0)), key=_when)
        others = [s for s in starts if s.node in good and s.node != node]
        row: list[Start] = []
        for start in mine:
            row = [] if start.good else [*row, start]
        blamed = [s for s in row if _is_nodes_fault(s, others, excluded)]
        if len(blamed) >= after:
            yield Suspect(node, len(blamed), blamed[-1].reason)


def _when(start: Start) -> float:
    return start.at


def _is_nodes_fault(start: Start, others: Sequence[Start], excluded: Collection[str]) -> bool:
    if start.registered:
        return any(other.good and other.pool == start.pool for other in others)
    return not excluded or any(other.registered and other.profile == start.profile for other in others)


def excluded(cluster: str, now: float) -> tuple[str, ...]:
    """Return the nodes that a job submitted now leaves out."""
    until = datetime.fromtimestamp(now, UTC)
    rows = BadNode.objects.filter(cluster=cluster, excluded_until__gt=until).order_by("-excluded_until")
    return tuple(sorted(rows.values_list("node", flat=True)[:_MOST]))


def look(clusters: Iterable[str], config: Config, now: float) -> Iterator[ExcludeNode | ReadmitNode]:
    """Yield what follows from the starts of the last day, cluster by cluster: nodes to be left out, and those that have
    waited long enough. Reads only."""
    for cluster in clusters:
        yield from _look(cluster, config, now)


def _look(cluster: str, config: Config, now: float) -> Iterator[ExcludeNode | ReadmitNode]:
    at = datetime.fromtimestamp(now, UTC)
    for row in BadNode.objects.filter(cluster=cluster, excluded_until__lte=at, failures__gt=0):
        yield _readmission(row, _named(row.node, cluster, config))
    if not _failed(cluster, at).exists():
        return
    rows = {row.node: row.excluded_until for row in BadNode.objects.filter(cluster=cluster)}
    forgiven = {node: until.timestamp() for node, until in rows.items() if until is not None}
    out = {node for node, until in rows.items() if until is not None and until > at}
    for suspect in suspects(_starts(cluster, at), out, forgiven, config.bad_node_after):
        yield _exclusion(cluster, suspect, _named(suspect.node, cluster, config), config.bad_node_s)


def _named(node: str, cluster: str, config: Config) -> str:
    """Return the node's name, with its cluster where that is not ours: two may both have a gpu01."""
    return node if cluster == config.cluster else f"{node} of cluster {cluster}"


def _failed(cluster: str, at: datetime) -> QuerySet[Replica]:
    return Replica.objects.filter(
        pilot__cluster=cluster, state=ReplicaState.FAILED, hot_at=None, ended_at__gt=at - HISTORY
    ).exclude(pilot__node="")


def _starts(cluster: str, at: datetime) -> list[Start]:
    fields = ("pilot__node", "pilot__profile_id", "pool_id", "pilot__registered_at")
    found = [
        Start(node, profile, pool, ended_at.timestamp(), False, registered is not None, _brief(reason))
        for node, profile, pool, registered, ended_at, reason in _failed(cluster, at).values_list(
            *fields, "ended_at", "end_reason"
        )
    ]
    hot = Replica.objects.filter(pilot__cluster=cluster, hot_at__gt=at - HISTORY).exclude(pilot__node="")
    found += [
        Start(node, profile, pool, hot_at.timestamp(), True, True)
        for node, profile, pool, registered, hot_at in hot.values_list(*fields, "hot_at")
    ]
    return [start for start in found if _ONE_NODE.fullmatch(start.node)]


def _exclusion(cluster: str, suspect: Suspect, named: str, for_s: float) -> ExcludeNode:
    return ExcludeNode(
        cluster=cluster,
        node=suspect.node,
        failures=suspect.failures,
        last_reason=suspect.reason,
        for_s=for_s,
        reason=f"{suspect.failures} starts in a row failed on {named}: new jobs leave it out for {for_s / 60:.0f} min. "
        f"The last one: {suspect.reason}",
        inputs={"node": suspect.node, "cluster": cluster, "failures": suspect.failures, "for_s": for_s},
    )


def _readmission(row: BadNode, named: str) -> ReadmitNode:
    return ReadmitNode(
        cluster=row.cluster,
        node=row.node,
        reason=f"{named} has been left out long enough: jobs may use it again.",
        inputs={"node": row.node, "cluster": row.cluster},
    )


def _brief(reason: str) -> str:
    return (reason.strip().splitlines() or [""])[0][:300]
