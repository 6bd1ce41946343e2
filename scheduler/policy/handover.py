"""Jobs whose walltime ends → which replicas no longer count, which may go early, and what is told of a gap. Pure.

A successor is nothing special: a replica that will not serve much longer is not counted by the autoscaler
(`leaving`), which so finds one missing and starts it, if the demand then still asks for it. Once it is hot,
the old one drains (`drains`), so that an early successor costs a job more, and no GPU time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from portal.fleet.states import ON_ITS_WAY, SERVING
from scheduler.policy import profiles
from scheduler.policy.deadlines import clock, closing, drain_of, end_of, lead_s, leaving, load_of, minutes
from scheduler.policy.decisions import DrainPilot, DrainReplica, Inputs
from scheduler.policy.snapshot import PilotView, PoolView, ReplicaView, Snapshot


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The pilot that a pool's next replica takes over from, and why it is needed now."""

    pilot: str
    reason: str  # a clause, for the launch's sentence
    inputs: Inputs


def predecessor(pool: PoolView, snapshot: Snapshot, now: float) -> Predecessor | None:
    """Of the pool's replicas that are leaving, the pilot that ends first and that no job replaces yet."""
    gone = leaving(snapshot, now)
    replaced = {pilot.replaces for pilot in snapshot.pilots if pilot.replaces}
    pilots = [
        pilot
        for pilot, replica in _hosts(pool.name, snapshot)
        if replica.id in gone and replica.state in SERVING and pilot.id not in replaced
    ]
    if not pilots:
        return None
    pilot = min(pilots, key=lambda p: (end_of(p), p.id))
    if pilot.ends_at is None:
        return Predecessor(pilot.id, f"the job that serves {pool.name} is being let go", {})
    if pilot.ends_at <= now:
        return Predecessor(pilot.id, f"the job that served {pool.name} is over", {})
    lead = lead_s(pool, pilot, snapshot)
    return Predecessor(
        pilot.id,
        f"the job that serves {pool.name} ends at {clock(pilot.ends_at)}, "
        f"and a successor may need {minutes(lead)} to be ready",
        {"ends_in_s": round(pilot.ends_at - now, 1), "lead_s": round(lead, 1)},
    )


def drains(snapshot: Snapshot, wanted: Mapping[str, int], now: float) -> Iterator[DrainReplica | DrainPilot]:
    """What goes early. `wanted`: replicas by pool, as the autoscaler wants them.

    1. A hot replica that is leaving, once as many as are wanted are hot without it. If nothing else keeps
       its pilot, the pilot goes as a whole.
    2. Where a cap leaves no place for a successor: a pilot that does nothing, else the first of several that
       would end together (`_room`).
    """
    gone = leaving(snapshot, now)
    handed = {r.id for pool in snapshot.pools for r in _handed_over(pool, snapshot, gone, wanted)}
    touched = set()
    for pilot in snapshot.pilots:
        here = snapshot.by_pilot[pilot.id]
        old = [replica for replica in here if replica.id in handed]
        if pilot.state != "up" or not old:
            continue
        touched.add(pilot.id)
        end, inputs = clock(end_of(pilot)), Inputs(ends_in_s=round(end_of(pilot) - now, 1))
        rest = [r for r in here if r.id not in handed and r.state != "draining"]
        if all(_dispensable(r, gone, wanted) for r in rest):
            names = " and ".join(sorted({replica.pool for replica in old}))
            reason = f"{names} is served by a newer job: this one, which ends at {end}, is let go."
            yield DrainPilot(pilot=pilot.id, reason=reason, inputs=inputs)
            continue
        for replica in old:
            reason = f"{replica.pool} is served by a newer job, and this one ends at {end}."
            yield DrainReplica(
                pool=replica.pool, pilot=pilot.id, replica=replica.id, reason=reason, inputs=inputs
            )
    yield from _room(snapshot, gone, wanted, touched, now)


def gap(pool: PoolView, snapshot: Snapshot, now: float) -> str:
    """The sentence for a gap that is coming: all that serve the pool are leaving, and what follows them
    cannot be ready before they end, because it is not submitted (a cap of ours) or still waits in Slurm's
    queue (a cap of the cluster's). "" where there is none. Only whole minutes are named, so that the
    sentence stays the same from tick to tick.
    """
    gone = leaving(snapshot, now)
    hosts = [(p, r) for p, r in _hosts(pool.name, snapshot) if r.state in SERVING]
    old = [pilot for pilot, replica in hosts if replica.id in gone]
    new = [pilot for pilot, replica in hosts if replica.id not in gone]
    ends = [pilot.ends_at for pilot in old if pilot.ends_at is not None]
    if not ends or any(pilot.state not in ON_ITS_WAY for pilot in new):
        return ""
    last = max(old, key=lambda p: (end_of(p), p.id))
    load_s = load_of(pool, last)
    # Half of the margin, because the agent takes no more requests some time before the end.
    needed_s = load_s + drain_of(pool) + snapshot.limits.hand_over_margin_s / 2
    if new and max(ends) - now >= needed_s:
        return ""  # it may still come in time
    profile = next((p for p in snapshot.profiles if p.name == last.profile), None)
    # The place that ends is the one that it gets: what Slurm took to start a job, not its line.
    ready_at = max(ends) + load_s + ((profile.wait_p50_s if profile is not None else None) or 0.0)
    why = (
        "Slurm has not started the next one yet"
        if new
        else f"no further job may start beside it under {last.profile}"
    )
    return (
        f"The job that serves {pool.name} ends at {clock(max(ends))}, and {why}: "
        f"requests wait then, until about {clock(ready_at + 60)}."
    )


def _hosts(pool: str, snapshot: Snapshot) -> list[tuple[PilotView, ReplicaView]]:
    pilots = snapshot.pilots_by_id
    return [(pilots[r.pilot], r) for r in snapshot.by_pool.get(pool, ()) if r.pilot in pilots]


def _handed_over(
    pool: PoolView, snapshot: Snapshot, gone: frozenset[str], wanted: Mapping[str, int]
) -> list[ReplicaView]:
    """Hot replicas that are leaving and no longer needed, those whose job ends first first."""
    hosts = [(p, r) for p, r in _hosts(pool.name, snapshot) if r.state == "hot" and p.state == "up"]
    staying = sum(replica.id not in gone and pilot.serves for pilot, replica in hosts)
    old = sorted((end_of(pilot), replica.id, replica) for pilot, replica in hosts if replica.id in gone)
    if staying == 0 or wanted.get(pool.name, 0) == 0:
        return []  # without demand its keep-alive or its walltime ends it
    spare = max(0, staying + len(old) - wanted[pool.name])
    return [replica for _, _, replica in old[:spare]]


def _dispensable(replica: ReplicaView, gone: frozenset[str], wanted: Mapping[str, int]) -> bool:
    """Nobody misses it: not wanted any more and idle, or asleep in a job that ends."""
    if replica.id not in gone:
        return False
    return replica.state == "asleep" or (wanted.get(replica.pool, 0) == 0 and _idle(replica))


def _idle(replica: ReplicaView) -> bool:
    return replica.state == "hot" and replica.in_flight == 0


def _room(
    snapshot: Snapshot, gone: frozenset[str], wanted: Mapping[str, int], touched: Collection[str], now: float
) -> Iterator[DrainPilot]:
    """One pilot of those that a cap counts together, while none of them comes or goes (`touched`: in this tick)."""
    going = set(touched)
    for cap, group in _full(snapshot):
        if any(pilot.state != "up" or not pilot.serves or pilot.id in going for pilot in group):
            continue
        ends = sorted(group, key=lambda p: (end_of(p), p.id))
        waiting = _without_successor(ends, snapshot, gone, wanted)
        if not waiting:
            continue
        pool, turn_s = waiting
        idle = next((p for p in ends if _useless(p, pool, snapshot, gone, wanted, now)), None)
        if idle is not None:
            reason = f"It does nothing, and {cap}: a successor for {pool.name} takes its place."
            going.add(idle.id)
            yield DrainPilot(pilot=idle.id, reason=reason, inputs={"jobs": len(group)})
        elif (early := _first_of_several(ends, snapshot, gone, turn_s, now)) is not None:
            reason = (
                f"{len(group)} jobs end close together, and {cap}: this one goes early, while others serve "
                "its models, so that they are replaced one after the other."
            )
            inputs: Inputs = {"ends_in_s": round(end_of(early) - now, 1), "turn_s": round(turn_s, 1)}
            going.add(early.id)
            yield DrainPilot(pilot=early.id, reason=reason, inputs=inputs)


def _full(snapshot: Snapshot) -> Iterator[tuple[str, list[PilotView]]]:
    """Each cap that binds, in words, and the pilots that it counts."""
    for profile in snapshot.profiles:
        own = [pilot for pilot in snapshot.pilots if pilot.profile == profile.name]
        if own and len(own) >= profile.max_pilots:
            yield f"no more than {profile.max_pilots} jobs may run under {profile.name}", own
    most = snapshot.limits.max_gpus
    with_gpus = [pilot for pilot in snapshot.pilots if pilot.gpus]
    smallest = min((p.gpus for p in snapshot.profiles if p.enabled and p.gpus), default=0)
    if most is not None and sum(pilot.gpus for pilot in with_gpus) + smallest > most:
        yield f"no more than {most} GPUs may be in use", with_gpus


def _without_successor(
    pilots: list[PilotView], snapshot: Snapshot, gone: frozenset[str], wanted: Mapping[str, int]
) -> tuple[PoolView, float] | None:
    """The first pool here that loses a replica and has none coming, and the lead of its successor, seconds."""
    pools = {pool.name: pool for pool in snapshot.pools}
    for pilot in pilots:
        for replica in snapshot.by_pilot[pilot.id]:
            pool = pools.get(replica.pool)
            if pool is None or replica.id not in gone or replica.state not in SERVING:
                continue
            if _staying(pool.name, snapshot, gone) < wanted.get(pool.name, 0):
                return pool, lead_s(pool, pilot, snapshot)
    return None


def _staying(pool: str, snapshot: Snapshot, gone: frozenset[str]) -> int:
    return sum(replica.state in SERVING and replica.id not in gone for replica in snapshot.by_pool[pool])


def _useless(
    pilot: PilotView,
    pool: PoolView,
    snapshot: Snapshot,
    gone: frozenset[str],
    wanted: Mapping[str, int],
    now: float,
) -> bool:
    """Nobody misses what it hosts, and the pool's successor cannot go there."""
    suits = profiles.suits(pool, pilot.nodes, pilot.gpus)
    fits = pilot.profile in pool.profiles and suits and pilot.mem_mb >= pool.mem_mb
    if fits and not closing(pool, pilot, snapshot, now):
        return False
    here = snapshot.by_pilot[pilot.id]
    return all(_dispensable(replica, gone, wanted) for replica in here)


def _first_of_several(
    ends: list[PilotView], snapshot: Snapshot, gone: frozenset[str], turn_s: float, now: float
) -> PilotView | None:
    """Return the first to go, when replacing them one at a time, a turn each, would not be done before they end.

    Only while each of its models is hot elsewhere, and only where its own end is what has to be prepared for: the lead
    of a model that loads for long makes its job leave sooner than one beside it that ends earlier and is busy.
    """
    if not any(end_of(pilot) - now < place * turn_s for place, pilot in enumerate(ends) if place):
        return None
    first = ends[0]
    elsewhere = {r.pool for r in snapshot.replicas if r.state == "hot" and r.pilot != first.id}
    here = snapshot.by_pilot[first.id]
    leaves = all(r.id in gone or r.state in ("asleep", "draining") or _idle(r) for r in here)
    return first if leaves and all(r.pool in elsewhere for r in here) else None
