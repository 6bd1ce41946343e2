"""`decide(snapshot, now)`: the policies put together, in the order in which they may contradict each other.

Pure (invariant 9): the control loop and the simulator run the same function. A tick decides at most one
new replica per pool, so that what it asks for is bounded by what exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from portal.fleet.states import SERVING
from scheduler.policy import (
    autoscale,
    handover,
    keepalive,
    latch,
    placement,
    profiles,
    staging,
    switching,
    withdrawal,
)
from scheduler.policy.books import Books
from scheduler.policy.deadlines import clock
from scheduler.policy.decisions import (
    CancelPilot,
    Decision,
    DrainPilot,
    DrainReplica,
    HoldPool,
    HoldProfile,
    Inputs,
    LaunchPilot,
    PlaceReplica,
    WakeReplica,
)
from scheduler.policy.profiles import NewPilot, Nowhere
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView, Snapshot


@dataclass
class _Tick:
    """What this tick has decided so far."""

    books: Books
    decisions: list[Decision] = field(default_factory=list)
    latched: set[str] = field(default_factory=set)  # pools
    waiting: list[staging.Waiting] = field(default_factory=list)  # pools that lack a replica and got none
    wanted: dict[str, int] = field(default_factory=dict)  # replicas by pool, of those that may be started

    @cached_property
    def residents(self) -> switching.Residents:
        return switching.Residents(self.books)


def decide(snapshot: Snapshot, now: float) -> list[Decision]:
    """1. Jobs that will never start are withdrawn. 2. Each pool gets the replica it lacks, or the reason why
    not; those whose work has waited longest, times its project's weight, come first. 3. Replicas whose
    successor is hot drain. 4. Replicas past their keep-alive drain. 5. Empty pilots, and jobs for what nobody
    wants any more, are let go. 6. Of what has to wait for room, the weights are staged where it may come.

    Where the way to Slurm is silent, only a pilot that we have may get a replica: nothing is launched, drained or
    cancelled by it (invariant 1). Other ways are not held by that."""
    tick = _Tick(Books(snapshot, now))
    _withdraw(tick)
    for pool in sorted(snapshot.pools, key=lambda pool: (-pool.weight * (pool.waited_s or 0.0), pool.name)):
        _supply(pool, tick)
    _hand_over(tick)
    for pool in snapshot.pools:
        tick.decisions += keepalive.idle_replicas(pool, tick.books)
    let_go = {d.pilot for d in tick.decisions if isinstance(d, DrainPilot)}
    tick.decisions += (d for d in keepalive.idle_pilots(tick.books) if d.pilot not in let_go)
    tick.decisions += withdrawal.unwanted_jobs(tick.books)
    tick.decisions += staging.ahead(tick.waiting, tick.books)
    return tick.decisions


def _withdraw(tick: _Tick) -> None:
    """Cancels jobs that will never start, and latches what they were submitted under: a second job like it would
    wait for ever too. The pools that waited for it are latched with it when no other profile is left to them."""
    books = tick.books
    hopeless = [pilot for pilot in books.snapshot.pilots if pilot.hopeless and not books.is_silent(pilot.id)]
    doomed = {pilot.profile: _never(pilot) for pilot in reversed(hopeless)}  # reasons by profile
    open_ = {p.name for p in books.profiles.values() if p.enabled and not p.latched and p.name not in doomed}
    for pilot in hopeless:
        pools = [books.pools[r.pool] for r in books.snapshot.by_pilot[pilot.id] if r.pool in books.pools]
        # Where another profile is left, this one is to blame, and not the models.
        failed = not all(open_.intersection(pool.profiles) for pool in pools)
        tick.decisions.append(CancelPilot(pilot=pilot.id, failed=failed, reason=_never(pilot)))
    for name, reason in doomed.items():
        if name in books.profiles and not books.profiles[name].latched:
            tick.decisions.append(HoldProfile(profile=name, reason=reason))
    for replica in books.snapshot.replicas if doomed else ():
        pool, where = books.pools.get(replica.pool), books.pilots.get(replica.pilot)
        if pool is None or where is None or not where.hopeless or where.profile not in doomed:
            continue
        if pool.name in tick.latched:
            continue
        if open_.intersection(pool.profiles):
            continue
        tick.latched.add(pool.name)
        reason = doomed[where.profile]
        tick.decisions.append(HoldPool(pool=pool.name, hold=latch.latched_by(pool, reason), reason=reason))


def _never(pilot: PilotView) -> str:
    return f"Slurm will never start its job: {pilot.hopeless}."


def _supply(pool: PoolView, tick: _Tick) -> None:
    if pool.name in tick.latched:
        return
    books = tick.books
    interactive = pool.queued_held > 0 or autoscale.is_asked(pool, books.now) or pool.min_replicas > 0
    may = profiles.allowed(pool, books, interactive=interactive or autoscale.is_pinned(pool, books.now))
    several = pool.max_replicas > 1 and pool.queued > 0 and pool.service_s is not None
    ready_s = placement.ready_s(pool, may, books) if several else None
    target = autoscale.target(pool, books.snapshot, books.now, books.gone, ready_s)
    reason = autoscale.blocked(pool, books.snapshot) if target.missing else ""
    held = latch.hold_of(pool, books.snapshot.limits, reason)
    waits = held.latched or (held.retry_at is not None and held.retry_at > books.now)
    if not held.latched and not autoscale.blocked(pool, books.snapshot):
        tick.wanted[pool.name] = target.wanted
    if target.missing and not reason and not waits:
        so_far = len(tick.decisions)
        held = latch.hold_of(pool, books.snapshot.limits, _start(pool, target, may, tick))
        if not any(isinstance(d, PlaceReplica | WakeReplica | LaunchPilot) for d in tick.decisions[so_far:]):
            tick.waiting.append(staging.Waiting(pool, may))
    elif not target.missing and target.wanted and _old(pool, books):
        held = latch.hold_of(pool, books.snapshot.limits, handover.gap(pool, books.snapshot, books.now))
    if held != pool.hold:
        tick.decisions.append(
            HoldPool(pool=pool.name, hold=held, reason=held.reason or "Nothing holds it back.")
        )


def _start(pool: PoolView, target: autoscale.Target, may: dict[str, ProfileView], tick: _Tick) -> str:
    """Decides one replica; answers why it could not, or ""."""
    books = tick.books
    inputs = _inputs(pool, target)
    why = _sentence(target.why)
    before = handover.predecessor(pool, books.snapshot, books.now) if _old(pool, books) else None
    if before is not None:
        why = f"{why}, but {before.reason}"
        inputs |= before.inputs
    spot = placement.place(pool, may, books)
    match spot:
        case placement.RoomSoon():
            return ""
        case placement.Wake(replica):
            tick.decisions.append(
                WakeReplica(
                    pool=pool.name,
                    pilot=replica.pilot,
                    replica=replica.id,
                    gpu_indices=books.wake(pool, replica),
                    reason=f"{why}, and it sleeps in a job that holds {_room(pool)}: it is woken.",
                    inputs=inputs,
                )
            )
            return ""
        case placement.InPilot(pilot):
            tick.decisions.append(
                PlaceReplica(
                    pool=pool.name,
                    pilot=pilot.id,
                    gpu_indices=books.place(pool, pilot),
                    reason=f"{why}, and a job that we already have holds {_room(pool)}.",
                    inputs=inputs,
                )
            )
            return ""
    if isinstance(spot, Nowhere) and spot.silent:
        return spot.reason
    if isinstance(spot, Nowhere) and placement.clear_soon(pool, may, books, float("inf")):
        return ""
    if (clearing := switching.clear(pool, spot, may, tick.residents, books)) is not None:
        _switch(pool, clearing, spot, tick)
        return ""
    if isinstance(spot, NewPilot):
        tick.decisions.append(
            LaunchPilot(
                pool=pool.name,
                profile=spot.profile.name,
                gpu_indices=books.launch(pool, spot.profile),
                replaces=before.pilot if before is not None else "",
                limit_s=spot.limit_s,
                reason=f"{why}, and no job of ours has room: a new one is submitted{_until(spot, books.now)}.",
                inputs=inputs,
            )
        )
        return ""
    return (handover.gap(pool, books.snapshot, books.now) if _old(pool, books) else "") or spot.reason


def _room(pool: PoolView) -> str:
    return "free GPUs" if pool.gpus else "memory for it"


def _until(spot: NewPilot, now: float) -> str:
    if spot.limit_s is None:
        return ""
    return f", up to the reservation of its nodes at {clock(now + spot.limit_s)}"


def _switch(pool: PoolView, clearing: switching.Clearing, spot: NewPilot | Nowhere, tick: _Tick) -> None:
    """The residents leave, and the room that they leave is promised to the pool."""
    books = tick.books
    tick.residents.gone(clearing)
    coming = [replace(leaver.replica, sleep_level=leaver.sleep_level) for leaver in clearing.leavers]
    books.promise(pool, clearing.pilot, coming)
    for leaver in clearing.leavers:
        replica = leaver.replica
        inputs: Inputs = {
            "gain_s": round(clearing.gain_s, 1),
            "loss_s": round(clearing.loss_s, 1),
            "queued": pool.queued,
            "waited_s": round(pool.waited_s, 1) if pool.waited_s is not None else None,
        }
        if replica.idle_since is not None:
            inputs["idle_s"] = round(books.now - replica.idle_since, 1)
        tick.decisions.append(
            DrainReplica(
                pool=replica.pool,
                pilot=replica.pilot,
                replica=replica.id,
                sleep_level=leaver.sleep_level,
                reason=_why_leave(pool, replica.pool, replica.state, clearing, spot),
                inputs=inputs,
            )
        )


def _why_leave(
    pool: PoolView, other: str, state: str, clearing: switching.Clearing, spot: NewPilot | Nowhere
) -> str:
    if state == "asleep" and other == pool.name:
        return (
            f"{other} sleeps beside GPUs that are taken; loading it on others needs the memory that it holds."
        )
    if state == "asleep":
        return f"{other} sleeps, and {pool.name} needs the memory that it holds."
    if clearing.forced:
        return (
            f"{pool.name} has waited for longer than anybody should while {other} was served: {other} ends what "
            "it has begun, then makes room."
        )
    if isinstance(spot, NewPilot):
        return (
            f"{other} is idle, and {pool.name} has work: making room costs less than waiting for a new job."
        )
    return f"{other} is idle, and {pool.name} has work and nowhere else to run."


def _hand_over(tick: _Tick) -> None:
    books = tick.books
    for drain in handover.drains(books.snapshot, tick.wanted, books.now):
        if drain.pilot in books.filled or books.is_silent(drain.pilot):
            continue
        if isinstance(drain, DrainPilot):
            books.moved.update(replica.id for replica in books.snapshot.by_pilot[drain.pilot])
        elif drain.replica in books.moved:
            continue
        else:
            books.moved.add(drain.replica)
        tick.decisions.append(drain)


def _old(pool: PoolView, books: Books) -> bool:
    """Something of it is leaving."""
    here = books.snapshot.by_pool[pool.name]
    return any(replica.id in books.leaving and replica.state in SERVING for replica in here)


def _inputs(pool: PoolView, target: autoscale.Target) -> Inputs:
    inputs: Inputs = {
        "queued": pool.queued,
        "running": pool.running,
        "serving": target.serving,
        "wanted": target.wanted,
    }
    if target.backlog_s is not None:
        inputs["backlog_s"] = round(target.backlog_s, 1)
    return inputs


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
