"""A profile against what Slurm says of its cluster (the facts that the control loop stored) → errors that name what
there is, or a word that nothing is known yet.

Separate from `rules`, which need no database. Slurm may be asked for the first time after the profiles are written, so
missing facts refuse nothing; a profile that is disabled is not checked, else one whose partition is gone could not
even be switched off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from django.apps import apps
from django.core.exceptions import ValidationError

# MIG's types begin with a digit: gpu:1g.10gb:7.
_GPUS = re.compile(r"gpu(?::(?P<type>\w[\w.+-]*))?:(?P<count>\d+)")
_FEATURE = re.compile(r"[A-Za-z_][\w.+:=-]*|\d[\w.+:=-]*[A-Za-z][\w.+:=-]*")


class Asked(Protocol):
    """The part of a profile in which Slurm has a say. Times are minutes."""

    name: str
    enabled: bool
    cluster: str
    partition: str
    account: str
    qos: str
    gpu_type: str
    gpu_type_asked: bool
    gpus: int
    nodes: int
    constraint: str
    reservation: str
    walltime_min: int
    walltime_least_min: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as Slurm shows it. `gpus`: type → most on one node; "" is the type of GPUs that have none.
    `features`: of its nodes; None where the client that was asked does not tell."""

    name: str
    up: bool
    limit_min: int | None
    nodes: int
    gpus: dict[str, int]
    features: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """The facts of a cluster. `accounts`: those that we may use → their QOS; empty where Slurm keeps no
    accounts."""

    partitions: dict[str, Partition]
    accounts: dict[str, list[str]]
    reservations: frozenset[str] = frozenset()


def known(cluster: str) -> Known | None:
    """Return the facts of a cluster; None before the control loop has asked."""
    row: Any = apps.get_model("fleet", "Cluster")._default_manager.filter(name=cluster).first()
    if row is None or not row.partitions:
        return None
    partitions = {name: _partition(name, said) for name, said in row.partitions.items()}
    reservations = frozenset(str(said.get("name", "")) for said in row.reservations)
    return Known(partitions, dict(row.accounts), reservations)


def check(profile: Asked) -> None:
    """Raise ValidationError with the fields that Slurm would refuse."""
    facts = known(profile.cluster) if profile.enabled else None
    if facts is None:
        return
    wrong: dict[str, str] = {}
    partition = facts.partitions.get(profile.partition)
    if partition is None:
        there = _listed(facts.partitions)
        wrong["partition"] = f"Slurm knows no partition '{profile.partition}'. There are: {there}."
    else:
        wrong = _gpus(profile, partition) | _features(profile, partition)
        if profile.nodes > max(1, partition.nodes):
            wrong["nodes"] = f"Partition {partition.name} has {partition.nodes} nodes."
        limit = partition.limit_min
        # One above the limit is taken where its --time-min fits: Slurm then gives what the limit allows.
        if limit is not None and profile.walltime_least_min > limit:
            wrong["walltime_least_min"] = f"Partition {partition.name} ends jobs after {limit} minutes."
    wrong |= _accounts(profile, facts.accounts)
    if wrong:
        raise ValidationError(wrong)


def doubts(profile: Asked) -> str:
    """Return what could not be checked, will be cut, or is not there yet, in words; "" when there is nothing to say."""
    facts = known(profile.cluster)
    if facts is None:
        return (
            f"Nothing is known of cluster {profile.cluster} yet, so partition, account, QOS, GPUs and walltime of "
            f"{profile.name} are not checked."
        )
    partition = facts.partitions.get(profile.partition)
    # Reservations come and go, and a site may hide them: no mistake yet.
    missing = sorted(set(filter(None, profile.reservation.split(","))) - facts.reservations)
    if missing:
        return (
            f"Slurm shows no reservation {', '.join(missing)}: it refuses the jobs of {profile.name} until there is one. "
            f"There are: {_listed(facts.reservations)}."
        )
    limit = partition.limit_min if partition is not None else None
    if limit is not None and profile.walltime_min > limit:
        return f"Partition {profile.partition} ends jobs after {limit} minutes: {profile.name} gets no more than that."
    return ""


def _gpus(profile: Asked, partition: Partition) -> dict[str, str]:
    if not profile.gpus:
        return {}
    there = ", ".join(
        f"{kind or 'any type'} ({most} on a node)" for kind, most in sorted(partition.gpus.items())
    )
    if not partition.gpus:
        return {"gpus": f"No node of partition {partition.name} has GPUs."}
    typed = profile.gpu_type if profile.gpu_type_asked else ""
    if typed and typed not in partition.gpus:
        return {"gpu_type": f"Partition {partition.name} has no '{profile.gpu_type}'. There are: {there}."}
    most = partition.gpus[typed] if typed else max(partition.gpus.values())
    if profile.gpus > most:
        return {"gpus": f"No node of partition {partition.name} has so many. There are: {there}."}
    return {}


def _features(profile: Asked, partition: Partition) -> dict[str, str]:
    """Check the names of features only: whether one node has all that is asked for, Slurm says."""
    if partition.features is None:
        return {}
    if strange := sorted(set(_FEATURE.findall(profile.constraint)) - partition.features):
        there = f"There are: {_listed(partition.features)}."
        return {"constraint": f"No node of partition {partition.name} has {', '.join(strange)}. {there}"}
    return {}


def _accounts(profile: Asked, accounts: dict[str, list[str]]) -> dict[str, str]:
    if not accounts:
        return {}
    if profile.account and profile.account not in accounts:
        return {"account": f"We may not use account '{profile.account}'. There are: {_listed(accounts)}."}
    named = [profile.account] if profile.account else accounts
    qos = {word for account in named for word in accounts[account]}
    if profile.qos and profile.qos not in qos:
        return {"qos": f"We may not use QOS '{profile.qos}'. There are: {_listed(qos)}."}
    return {}


def _partition(name: str, said: dict[str, Any]) -> Partition:
    gpus: dict[str, int] = {}
    for group in said.get("groups", ()):
        for found in _GPUS.finditer(str(group.get("gres", ""))):
            kind = found["type"] or ""
            gpus[kind] = max(gpus.get(kind, 0), int(found["count"]))
    groups = list(said.get("groups", ()))
    nodes = sum(int(group.get("count", 0)) for group in groups)
    told = [group["features"] for group in groups if group.get("features") is not None]
    features = (
        frozenset(str(one) for some in told for one in some) if groups and len(told) == len(groups) else None
    )
    return Partition(name, bool(said.get("up")), said.get("limit_min"), nodes, gpus, features)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
