"""Which profiles a pool may use, which of them a new job is submitted under, or why under none. Pure.

Separate from placement because it weighs what is not there yet: Slurm's wait, caps, reservations, latches.
"""

from __future__ import annotations

from dataclasses import dataclass

from portal.fleet.states import SERVING
from scheduler.policy.books import Books
from scheduler.policy.deadlines import UNKNOWN_WAIT_S
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView

# Start estimates this close together are the same: then the cost decides.
SAME_S = 60.0


@dataclass(frozen=True, slots=True)
class NewPilot:
    profile: ProfileView
    ready_s: float  # Slurm's wait and the load, estimated
    limit_s: float | None  # a shorter walltime than the profile's, up to a reservation


@dataclass(frozen=True, slots=True)
class Nowhere:
    reason: str
    silent: bool = False  # Slurm is heard by none of the ways by which its jobs are submitted


def allowed(pool: PoolView, books: Books, *, interactive: bool) -> dict[str, ProfileView]:
    """The profiles in whose pilots the pool may have its next replica.

    1. Those set for it, on GPUs that it fits as far as that was measured, and of its own project where a
       profile's pilots serve one project only.
    2. Not those of a cluster in which an operator has paused the fleet.
    3. Not preemptible ones for the first replica that people wait for (`interactive`), unless there are no
       others: batch and what comes on top of a steady replica may be preempted.
    """
    found = {
        name: profile
        for name in pool.profiles
        if (profile := books.profiles.get(name)) is not None
        and name not in books.snapshot.paused
        and _open_to(profile, pool)
    }
    if interactive and not _steady(pool, books):
        steady = {name: profile for name, profile in found.items() if not profile.preemptible}
        if any(p.enabled and not p.latched and _large(p, pool) for p in steady.values()):
            return steady
    return found


def new_pilot(pool: PoolView, may: dict[str, ProfileView], books: Books) -> NewPilot | Nowhere:
    """A job under the profile with the least (Slurm's wait + load); about the same: the cheaper one.

    Left out, each with its reason: disabled and latched profiles, those whose way to Slurm is silent, those whose
    caps are reached, and those over whose nodes a reservation begins before a job would have been useful.
    """
    if not may:
        return Nowhere(_none_allowed(pool, books))
    fitting = [profile for profile in may.values() if profile.enabled and _large(profile, pool)]
    if not fitting:
        need = f"{pool.gpus} GPUs and {pool.mem_mb} MiB" if pool.gpus else f"{pool.mem_mb} MiB"
        if pool.nodes > 1:
            need = f"{pool.nodes} nodes with exactly {pool.gpus // pool.nodes} GPUs, and {pool.mem_mb} MiB, on each"
        return Nowhere(f"No enabled profile has {need} for it.")
    why = {profile.name: _blocked(pool, profile, books) for profile in fitting}
    ready = [profile for profile in fitting if not why[profile.name]]
    if not ready:
        return Nowhere(_sentence(why), all(profile.name in books.snapshot.silent for profile in fitting))
    best = min(
        ready,
        key=lambda p: (ready_s(pool, p) // SAME_S, _cost(p), p.preemptible, ready_s(pool, p), p.name),
    )
    left_s = best.free_until - books.now if best.free_until is not None else None
    clipped = left_s is not None and left_s < best.walltime_s
    return NewPilot(best, ready_s(pool, best), left_s if clipped else None)


def fits(pool: PoolView, gpu_type: str) -> bool:
    """Whether its environment runs on such GPUs and it fits onto them. What was not tried on a type of GPU, or on a
    profile that names none, counts as fitting."""
    seen = pool.fits.get(gpu_type)
    return runs_on(pool, gpu_type) and (seen is None or seen.fits)


def runs_on(pool: PoolView, gpu_type: str) -> bool:
    """Whether its environment is made for such GPUs, as far as the catalog says."""
    return not pool.gpu_types or not gpu_type or gpu_type in pool.gpu_types


def load_s(pool: PoolView, gpu_type: str) -> float:
    seen = pool.fits.get(gpu_type)
    return pool.load_s if seen is None or seen.load_s is None else seen.load_s


def wait_s(profile: ProfileView) -> float:
    """Slurm's own estimate, else the median of the day, else a guess."""
    for known in (profile.starts_in_s, profile.wait_p50_s):
        if known is not None:
            return known
    return UNKNOWN_WAIT_S


def ready_s(pool: PoolView, profile: ProfileView) -> float:
    return wait_s(profile) + load_s(pool, profile.gpu_type)


def gpu_type(pilot: PilotView, books: Books) -> str:
    profile = books.profiles.get(pilot.profile)
    return pilot.gpu_type or (profile.gpu_type if profile is not None else "")


def _steady(pool: PoolView, books: Books) -> bool:
    """It has a replica that nobody preempts."""
    return any(
        replica.state in SERVING and replica.id not in books.gone and books.is_steady(replica)
        for replica in books.snapshot.by_pool[pool.name]
    )


def suits(pool: PoolView, nodes: int, gpus: int) -> bool:
    """Whether a job of so many nodes, with so many GPUs on all of them, is one for the pool. A replica over several nodes
    has a job of exactly these for itself: cut off pieces of nodes are of use to nobody else."""
    return nodes == pool.nodes and (gpus == pool.gpus if nodes > 1 else gpus >= pool.gpus)


def serves(profile: ProfileView, pool: PoolView) -> bool:
    """Whether a job under it could have the pool's next replica, as far as the catalog and measurements say."""
    return profile.name in pool.profiles and _open_to(profile, pool) and _large(profile, pool)


def _open_to(profile: ProfileView, pool: PoolView) -> bool:
    return fits(pool, profile.gpu_type) and (not profile.project or profile.project == pool.project)


def _large(profile: ProfileView, pool: PoolView) -> bool:
    wide = profile.nodes >= pool.nodes and suits(pool, pool.nodes, profile.gpus * pool.nodes)
    return wide and profile.mem_mb >= pool.mem_mb


def _cost(profile: ProfileView) -> float:
    """Of an hour of its job; one without GPUs costs as much as one GPU by itself."""
    return profile.cost * max(1, profile.gpus)


def _none_allowed(pool: PoolView, books: Books) -> str:
    set_for_it = [books.profiles[name] for name in pool.profiles if name in books.profiles]
    if not set_for_it:
        return "No profile is set for it: an administrator has to choose where it may run."
    strange = sorted(p.name for p in set_for_it if not runs_on(pool, p.gpu_type))
    if len(strange) == len(set_for_it):
        return f"Its environment runs on GPUs of type {', '.join(pool.gpu_types)}, and {', '.join(strange)} have others."
    unfit = sorted(p.name for p in set_for_it if not fits(pool, p.gpu_type) and p.name not in strange)
    if unfit:
        return f"It did not fit on the GPUs of {', '.join(unfit)}, and it may run nowhere else."
    return "The profiles set for it serve other projects only: an administrator has to choose one for it."


def _blocked(pool: PoolView, profile: ProfileView, books: Books) -> str:
    """Why no job is submitted under it now, or "". Without numbers that change from tick to tick: the reason is
    stored, and a new row is written when it changes."""
    if (silent := books.snapshot.silent.get(profile.name)) is not None:
        return silent
    if profile.latched:
        return f"Nothing is submitted under {profile.name} until an operator has looked: {profile.latched}"
    if books.jobs_left(profile) <= 0:
        return "full"
    gpus = profile.gpus * pool.nodes
    if gpus and books.gpus_left() < gpus:
        return f"All of the {books.snapshot.limits.max_gpus} GPUs that may be used at once are in use."
    owner = profile.project or pool.project
    need = gpus if profile.project else pool.gpus
    if need and books.project_left(owner) < need:
        most = books.snapshot.limits.project_gpus[owner]
        return f"Project {owner} uses all of the {most} GPUs that it may use at once."
    if profile.free_until is not None:
        useful_s = max(profile.least_s, 2 * load_s(pool, profile.gpu_type))
        if profile.free_until - books.now < useful_s:
            return f"A reservation over the nodes of {profile.name} begins too soon for a job to be useful."
    return ""


def _sentence(why: dict[str, str]) -> str:
    full = sorted(name for name, reason in why.items() if reason == "full")
    said = [f"All jobs allowed by {', '.join(full)} are in use; it waits for room."] if full else []
    return " ".join([*said, *sorted({reason for reason in why.values() if reason != "full"})])
