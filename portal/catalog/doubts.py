"""A row of the catalog that was saved → what may go wrong with it although nothing is wrong by itself, in words.

Separate from `rules`, which refuse: rows are written in any order, so that a pool may be there before the profile that
it fits in, and only a person knows whether two ways lead to one Slurm.
"""

from __future__ import annotations

from typing import Any

from portal.catalog import cluster, ways
from portal.catalog.models import Access, Pool, Profile
from portal.config import config, on_loopback


def of(row: Any) -> str:
    """Return the doubts about an access, a profile (and the pools that rely on it) or a pool; "" for none."""
    match row:
        case Access():
            said = [_shared(row), ways.doubts(row)]
        case Profile():
            said = [cluster.doubts(row), _unreached(row), *map(_homeless, Pool.objects.filter(profiles=row))]
        case Pool():
            said = [_homeless(row)]
        case _:
            said = []
    return " ".join(filter(None, said))


def loopback(url: str, whose: str) -> str:
    """Return what it means that nodes are told of an address of the loopback; "" where it is none."""
    if not on_loopback(url):
        return ""
    return (
        f"{whose} {url}, which is each node itself: agents on other machines do not reach the portal there. Set "
        "BERTH_PORTAL_URL, or the profile's portal_url_from_nodes, to an address that the nodes reach."
    )


def _unreached(profile: Profile) -> str:
    url = profile.portal_url_from_nodes or config().portal_url
    return loopback(url, f"Nodes of {profile.name} are told that the portal is at")


def _shared(access: Access) -> str:
    others = Access.objects.filter(cluster=access.cluster).exclude(pk=access.pk).order_by("name")
    named = [f"access {other.name}" for other in others]
    if access.cluster == config().cluster:
        named.append("Slurm's commands on this host (BERTH_CLUSTER)")
    if not named:
        return ""
    return (
        f"Cluster {access.cluster} is also that of {' and '.join(named)}: job ids are "
        f"assumed to be of one Slurm. If {access.name} leads to another Slurm, give it a cluster name of its own."
    )


def _homeless(pool: Pool) -> str:
    """Apply the rules of placement (`scheduler.policy.profiles`) before a request waits for nothing."""
    profiles = list(Profile.objects.filter(pool=pool, enabled=True).order_by("name"))
    if not profiles:
        return f"No profile of pool {pool.name} is enabled: its requests wait until one is."
    large = [profile for profile in profiles if _holds(profile, pool)]
    if not large:
        have = "; ".join(f"{profile.name} has {_size(profile)}" for profile in profiles)
        exactly = "exactly " if pool.nodes > 1 else ""
        return (
            f"No enabled profile of pool {pool.name} can hold a replica, which takes {exactly}{_size(pool)}: {have}. "
            "Add a profile that can, or change the pool."
        )
    types = [str(one) for one in pool.environment.gpu_types]
    if types and not any(not profile.gpu_type or profile.gpu_type in types for profile in large):
        have = ", ".join(f"{profile.name} has {profile.gpu_type}" for profile in large)
        return (
            f"Environment {pool.environment.name} of pool {pool.name} runs on GPUs of type {', '.join(types)}, and its "
            f"profiles have others: {have}. Add a profile with those, or name the type in gpu_types."
        )
    return ""


def _holds(profile: Profile, pool: Pool) -> bool:
    gpus = profile.gpus == pool.gpus if pool.nodes > 1 else profile.gpus >= pool.gpus
    return gpus and profile.nodes >= pool.nodes and profile.mem_mb >= pool.mem_mb


def _size(row: Profile | Pool) -> str:
    gpus = f"{row.gpus} GPU{'' if row.gpus == 1 else 's'} and {row.mem_mb} MiB"
    return gpus if row.nodes == 1 else f"{gpus} on each of {row.nodes} nodes"
