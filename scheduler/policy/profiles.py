"""Which profiles a pool may use, which of them a new job is submitted under, or why under none. Pure.

Separate from placement because it weighs what is not there yet: Slurm's wait, caps, reservations, latches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.policy import autoscale
from scheduler.policy.allocation import Allocation
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import PoolView, ProfileView

# Start estimates this close together are the same: then the cost decides.
SAME_S = 60.0
_FULL = "full"


@dataclass(frozen=True, slots=True)
class Claim:
    """Name a pool that lacks a replica, and the profiles in whose jobs it may have it now."""

    pool: PoolView
    profiles: Mapping[str, ProfileView]


@dataclass(frozen=True, slots=True)
class NewPilot:
    """Propose a new job."""

    profile: ProfileView
    ready_s: float  # Slurm's wait and the load, estimated
    limit_s: float | None  # a shorter walltime than the profile's, up to a reservation


@dataclass(frozen=True, slots=True)
class Nowhere:
    """Say why there is no place, neither now nor in a new job."""

    reason: str
    silent: bool = False  # Slurm is heard by none of the ways by which its jobs are submitted


def claim(pool: PoolView, snapshot: Snapshot) -> Claim:
    """Return the profiles in whose pilots the pool may have its next replica.

    1. Those set for it, on GPUs that its environment runs on and that it fits as far as that was measured, and of its
       own project where a profile's pilots serve one project only.
    2. Not those of a cluster in which an operator has paused the fleet.
    3. Not preemptible ones for the first replica that people wait for, unless there are no others: batch and what
       comes on top of a steady replica may be preempted.
    """
    allowed = {
        name: profile
        for name in pool.profiles
        if (profile := snapshot.profiles_by_name.get(name)) is not None
        and name not in snapshot.paused  # 2
        and _open_to(pool, profile)  # 1
    }
    if any(profile.preemptible for profile in allowed.values()) and _needs_steady(pool, snapshot):  # 3
        steady = {name: profile for name, profile in allowed.items() if not profile.preemptible}
        if any(profile.is_open and _is_large(pool, profile) for profile in steady.values()):
            return Claim(pool, steady)
    return Claim(pool, allowed)


def new_pilot(claim: Claim, allocation: Allocation) -> NewPilot | Nowhere:
    """Return a job under the profile with the least (Slurm's wait + load); about the same: the cheaper one.

    Left out, each with its reason: disabled and latched profiles, those whose way to Slurm is silent, those whose
    caps are reached, and those over whose nodes a reservation begins before a job would have been useful.
    """
    pool, snapshot = claim.pool, allocation.snapshot
    if not claim.profiles:
        return Nowhere(_none_allowed(pool, snapshot))
    fitting = [profile for profile in claim.profiles.values() if profile.enabled and _is_large(pool, profile)]
    if not fitting:
        need = f"{pool.gpus} GPUs and {pool.mem_mb} MiB" if pool.gpus else f"{pool.mem_mb} MiB"
        if pool.nodes > 1:
            need = f"{pool.nodes} nodes with exactly {pool.gpus // pool.nodes} GPUs, and {pool.mem_mb} MiB, on each"
        return Nowhere(f"No enabled profile has {need} for it.")
    why = {profile.name: _blocked(pool, profile, allocation) for profile in fitting}
    ready = [profile for profile in fitting if not why[profile.name]]
    if not ready:
        return Nowhere(_together(why), all(profile.name in snapshot.silent for profile in fitting))
    best = min(
        ready,
        key=lambda p: (ready_s(pool, p) // SAME_S, _cost(p), p.preemptible, ready_s(pool, p), p.name),
    )
    left_s = best.free_until - snapshot.now if best.free_until is not None else None
    clipped = left_s is not None and left_s < best.walltime_s
    return NewPilot(best, ready_s(pool, best), left_s if clipped else None)


def ready_s(pool: PoolView, profile: ProfileView) -> float:
    """Return how long a replica in a new job takes to come: Slurm's wait and the load, in seconds."""
    return profile.wait_s + pool.load_on(profile.gpu_type)


def could_host(pool: PoolView, profile: ProfileView) -> bool:
    """Return whether a job under it could have the pool's next replica, as far as the catalog and measurements say."""
    return profile.name in pool.profiles and _open_to(pool, profile) and _is_large(pool, profile)


def _needs_steady(pool: PoolView, snapshot: Snapshot) -> bool:
    """Return whether people wait for the pool's first replica that nobody preempts."""
    for_people = (
        pool.queued_held > 0
        or pool.min_replicas > 0
        or autoscale.is_asked(pool, snapshot)
        or autoscale.is_pinned(pool, snapshot)
    )
    return for_people and not any(map(snapshot.is_steady, snapshot.staying[pool.name]))


def _open_to(pool: PoolView, profile: ProfileView) -> bool:
    """Return whether its GPUs and its project are ones for the pool."""
    return pool.fits_on(profile.gpu_type) and (not profile.project or profile.project == pool.project)


def _is_large(pool: PoolView, profile: ProfileView) -> bool:
    """Return whether a job under it can be as large as a replica of the pool."""
    wide = profile.nodes >= pool.nodes and pool.suits(pool.nodes, profile.gpus * pool.nodes)
    return wide and profile.mem_mb >= pool.mem_mb


def _cost(profile: ProfileView) -> float:
    """Return the relative cost of an hour of its job; one without GPUs costs as much as one GPU by itself."""
    return profile.cost * max(1, profile.gpus)


def _none_allowed(pool: PoolView, snapshot: Snapshot) -> str:
    """Return why the pool may use no profile at all."""
    known = snapshot.profiles_by_name
    set_for_it = [known[name] for name in pool.profiles if name in known]
    if not set_for_it:
        return "No profile is set for it: an administrator has to choose where it may run."
    strange = sorted(profile.name for profile in set_for_it if not pool.runs_on(profile.gpu_type))
    if len(strange) == len(set_for_it):
        return f"Its environment runs on GPUs of type {', '.join(pool.gpu_types)}, and {', '.join(strange)} have others."
    unfit = sorted(p.name for p in set_for_it if not pool.fits_on(p.gpu_type) and p.name not in strange)
    if unfit:
        return f"It did not fit on the GPUs of {', '.join(unfit)}, and it may run nowhere else."
    return "The profiles set for it serve other projects only: an administrator has to choose one for it."


def _blocked(pool: PoolView, profile: ProfileView, allocation: Allocation) -> str:
    """Return why no job is submitted under it now, or "".

    Without numbers that change from tick to tick: the reason is stored, and a new row is written when it changes."""
    snapshot = allocation.snapshot
    if (silent := snapshot.silent.get(profile.name)) is not None:
        return silent
    if profile.latched:
        return f"Nothing is submitted under {profile.name} until an operator has looked: {profile.latched}"
    if allocation.jobs_left(profile) <= 0:
        return _FULL
    gpus = profile.gpus * pool.nodes
    if gpus and allocation.gpus_left() < gpus:
        return f"All of the {snapshot.limits.max_gpus} GPUs that may be used at once are in use."
    owner = profile.project or pool.project
    need = gpus if profile.project else pool.gpus
    if need and allocation.project_left(owner) < need:
        most = snapshot.limits.project_gpus[owner]
        return f"Project {owner} uses all of the {most} GPUs that it may use at once."
    if profile.free_until is not None:
        useful_s = max(profile.least_s, 2 * pool.load_on(profile.gpu_type))
        if profile.free_until - snapshot.now < useful_s:
            return f"A reservation over the nodes of {profile.name} begins too soon for a job to be useful."
    return ""


def _together(why: Mapping[str, str]) -> str:
    """Return the profiles' reasons as one text."""
    full = sorted(name for name, reason in why.items() if reason == _FULL)
    caps = [f"All jobs allowed by {', '.join(full)} are in use; it waits for room."] if full else []
    return " ".join([*caps, *sorted({reason for reason in why.values() if reason != _FULL})])
