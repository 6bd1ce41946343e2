"""Jobs whose walltime ends → which replicas may go early, and what is told of a gap. Pure.

A successor is nothing special: a replica that will not serve much longer is not counted by the autoscaler
(`Snapshot.leaving`), which so finds one missing and starts it, if the demand then still asks for it. Once it is hot,
the old one drains (`drains`), so that an early successor costs a job more, and no GPU time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from portal.fleet.states import ON_ITS_WAY, PilotState, ReplicaState
from scheduler.policy.decisions import DrainPilot, DrainReplica, Inputs
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import PilotView, PoolView, ReplicaView
from scheduler.policy.words import clock, span


@dataclass(frozen=True, slots=True)
class Predecessor:
    """Name the pilot that a pool's next replica takes over from, and why it is needed now."""

    pilot: str
    reason: str  # a clause, for the launch's sentence
    inputs: Inputs


def predecessor(pool: PoolView, snapshot: Snapshot) -> Predecessor | None:
    """Return, of the pool's replicas that are leaving, the pilot that ends first and that no job replaces yet."""
    if not snapshot.parting[pool.name]:
        return None
    replaced = {pilot.replaces for pilot in snapshot.pilots if pilot.replaces}
    pilots = [pilot for pilot in _pilots(snapshot.parting[pool.name], snapshot) if pilot.id not in replaced]
    if not pilots:
        return None
    pilot = min(pilots, key=_first_to_end)
    if pilot.ends_at is None:
        return Predecessor(pilot.id, f"the job that serves {pool.name} is being let go", {})
    if pilot.ends_at <= snapshot.now:
        return Predecessor(pilot.id, f"the job that served {pool.name} is over", {})
    lead = snapshot.lead_s(pool, pilot)
    return Predecessor(
        pilot.id,
        f"the job that serves {pool.name} ends at {clock(pilot.ends_at)}, "
        f"and a successor may need {span(lead)} to be ready",
        {"ends_in_s": round(pilot.ends_at - snapshot.now, 1), "lead_s": round(lead, 1)},
    )


def drains(snapshot: Snapshot, wanted: Mapping[str, int]) -> Iterator[DrainReplica | DrainPilot]:
    """Yield what goes early. `wanted`: replicas by pool, as the autoscaler wants them.

    1. A hot replica that is leaving, once as many as are wanted are hot without it. If nothing else keeps
       its pilot, the pilot goes as a whole.
    2. Where a cap leaves no place for a successor: a pilot that does nothing, else the first of several that
       would end together (`_room`).
    """
    if not snapshot.leaving:
        return
    handed = {
        replica.id for pool, parting in snapshot.parting.items() if parting
        for replica in _handed_over(pool, snapshot, wanted)
    }  # fmt: skip
    touched = set()
    for pilot in snapshot.pilots if handed else ():  # 1
        here = snapshot.by_pilot[pilot.id]
        old = [replica for replica in here if replica.id in handed]
        if pilot.state != PilotState.UP or not old:
            continue
        touched.add(pilot.id)
        end, inputs = clock(pilot.end), Inputs(ends_in_s=round(pilot.end - snapshot.now, 1))
        rest = [r for r in here if r.id not in handed and r.state != ReplicaState.DRAINING]
        if all(_is_dispensable(replica, snapshot, wanted) for replica in rest):
            names = " and ".join(sorted({replica.pool for replica in old}))
            reason = f"{names} is served by a newer job: this one, which ends at {end}, is let go."
            yield DrainPilot(pilot=pilot.id, reason=reason, inputs=inputs)
            continue
        for replica in old:
            reason = f"{replica.pool} is served by a newer job, and this one ends at {end}."
            yield DrainReplica(
                pool=replica.pool, pilot=pilot.id, replica=replica.id, reason=reason, inputs=inputs
            )
    yield from _room(snapshot, wanted, touched)  # 2


def gap(pool: PoolView, snapshot: Snapshot) -> str:
    """Return the sentence for a gap that is coming, "" where there is none.

    All that serve the pool are leaving then, and what follows them cannot be ready before they end, because it is not
    submitted (a cap of ours) or still waits in Slurm's queue (a cap of the cluster's). Only whole minutes are named, so
    that the sentence stays the same from tick to tick.
    """
    if not snapshot.parting[pool.name]:
        return ""
    old = _pilots(snapshot.parting[pool.name], snapshot)
    serving = [replica for replica in snapshot.by_pool[pool.name] if replica.is_serving]
    new = _pilots([replica for replica in serving if replica.id not in snapshot.leaving], snapshot)
    ends = [pilot.ends_at for pilot in old if pilot.ends_at is not None]
    if not ends or any(pilot.state not in ON_ITS_WAY for pilot in new):
        return ""
    last = max(old, key=_first_to_end)
    load_s = pool.load_on(last.gpu_type)
    # Half of the margin, because the agent takes no more requests some time before the end.
    needed_s = load_s + pool.drain_s + snapshot.limits.hand_over_margin_s / 2
    if new and max(ends) - snapshot.now >= needed_s:
        return ""  # it may still come in time
    profile = snapshot.profiles_by_name.get(last.profile)
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


def _first_to_end(pilot: PilotView) -> tuple[float, str]:
    """Return the key that sorts pilots by their ends."""
    return pilot.end, pilot.id


def _pilots(replicas: Collection[ReplicaView], snapshot: Snapshot) -> list[PilotView]:
    """Return the pilot of each replica, where it is known."""
    pilots = snapshot.pilots_by_id
    return [pilots[replica.pilot] for replica in replicas if replica.pilot in pilots]


def _is_up(replica: ReplicaView, snapshot: Snapshot) -> bool:
    """Return whether the replica is hot in a job that runs and does not drain."""
    pilot = snapshot.pilots_by_id.get(replica.pilot)
    return replica.state == ReplicaState.HOT and pilot is not None and pilot.state == PilotState.UP


def _handed_over(pool: str, snapshot: Snapshot, wanted: Mapping[str, int]) -> list[ReplicaView]:
    """Return hot replicas that are leaving and no longer needed, those whose job ends first first."""
    staying = sum(_is_up(replica, snapshot) for replica in snapshot.staying[pool])
    if staying == 0 or wanted.get(pool, 0) == 0:
        return []  # without demand its keep-alive or its walltime ends it
    old = [replica for replica in snapshot.parting[pool] if _is_up(replica, snapshot)]
    old.sort(key=lambda replica: (snapshot.pilots_by_id[replica.pilot].end, replica.id))
    return old[: max(0, staying + len(old) - wanted[pool])]


def _is_dispensable(replica: ReplicaView, snapshot: Snapshot, wanted: Mapping[str, int]) -> bool:
    """Return whether nobody misses it: not wanted any more and idle, or asleep in a job that ends."""
    if replica.id not in snapshot.leaving:
        return False
    return replica.is_asleep or (wanted.get(replica.pool, 0) == 0 and _is_idle(replica))


def _is_idle(replica: ReplicaView) -> bool:
    """Return whether it is hot and has nothing to do."""
    return replica.state == ReplicaState.HOT and replica.in_flight == 0


def _room(snapshot: Snapshot, wanted: Mapping[str, int], touched: Collection[str]) -> Iterator[DrainPilot]:
    """Yield one pilot of those that a cap counts together, while none of them comes or goes (`touched`: in this tick)."""
    going = set(touched)
    for cap, group in _full(snapshot):
        if any(pilot.state != PilotState.UP or not pilot.serves or pilot.id in going for pilot in group):
            continue
        ends = sorted(group, key=_first_to_end)
        waiting = _without_successor(ends, snapshot, wanted)
        if not waiting:
            continue
        pool, turn_s = waiting
        idle = next((pilot for pilot in ends if _is_useless(pool, pilot, snapshot, wanted)), None)
        if idle is not None:
            reason = f"It does nothing, and {cap}: a successor for {pool.name} takes its place."
            going.add(idle.id)
            yield DrainPilot(pilot=idle.id, reason=reason, inputs={"jobs": len(group)})
        elif (early := _first_of_several(ends, snapshot, turn_s)) is not None:
            reason = (
                f"{len(group)} jobs end close together, and {cap}: this one goes early, while others serve "
                "its models, so that they are replaced one after the other."
            )
            inputs: Inputs = {
                "ends_in_s": round(early.end - snapshot.now, 1),
                "turn_s": round(turn_s, 1),
            }
            going.add(early.id)
            yield DrainPilot(pilot=early.id, reason=reason, inputs=inputs)


def _full(snapshot: Snapshot) -> Iterator[tuple[str, list[PilotView]]]:
    """Yield each cap that binds, in words, and the pilots that it counts."""
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
    pilots: list[PilotView], snapshot: Snapshot, wanted: Mapping[str, int]
) -> tuple[PoolView, float] | None:
    """Return the first pool here that loses a replica and has none coming, and the lead of its successor, seconds."""
    for pilot in pilots:
        for replica in snapshot.by_pilot[pilot.id]:
            pool = snapshot.pools_by_name.get(replica.pool)
            if pool is None or replica.id not in snapshot.leaving or not replica.is_serving:
                continue
            here = snapshot.by_pool[pool.name]
            staying = sum(other.is_serving and other.id not in snapshot.leaving for other in here)
            if staying < wanted.get(pool.name, 0):
                return pool, snapshot.lead_s(pool, pilot)
    return None


def _is_useless(pool: PoolView, pilot: PilotView, snapshot: Snapshot, wanted: Mapping[str, int]) -> bool:
    """Return whether nobody misses what the pilot hosts, and the pool's successor cannot go there."""
    large = pool.suits(pilot.nodes, pilot.gpus) and pilot.mem_mb >= pool.mem_mb
    could_go_there = pilot.profile in pool.profiles and large and pool.fits_on(pilot.gpu_type)
    if could_go_there and not snapshot.is_closing(pool, pilot):
        return False
    return all(_is_dispensable(replica, snapshot, wanted) for replica in snapshot.by_pilot[pilot.id])


def _first_of_several(ends: list[PilotView], snapshot: Snapshot, turn_s: float) -> PilotView | None:
    """Return the first to go, when replacing them one at a time, a turn each, would not be done before they end.

    Only while each of its models is hot elsewhere, and only where its own end is what has to be prepared for: the lead
    of a model that loads for long makes its job leave sooner than one beside it that ends earlier and is busy.
    """
    if not any(pilot.end - snapshot.now < place * turn_s for place, pilot in enumerate(ends) if place):
        return None
    first = ends[0]
    elsewhere = {r.pool for r in snapshot.replicas if r.state == ReplicaState.HOT and r.pilot != first.id}
    here = snapshot.by_pilot[first.id]
    goes = (ReplicaState.ASLEEP, ReplicaState.DRAINING)
    leaves = all(r.id in snapshot.leaving or r.state in goes or _is_idle(r) for r in here)
    return first if leaves and all(r.pool in elsewhere for r in here) else None
