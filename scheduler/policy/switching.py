"""Which residents make room for a pool that has no room, and whether that is worth it. Pure.

Both sides are seconds that requests wait, times the weight of their project.

Gain: each of the pool's waiting requests waits no longer for what it would get otherwise: a new job, or
nothing before the bound `wait_bound_s` (counted on top of what it has waited already), and no longer than the
pilot lives on.
Loss: the load of the one; and for each resident that goes, what waits for it and comes back for it, times
(its reload + half of the time that it is away at least). That it is asked for while away is as likely as
`away / (away + idle)`: what was idle for t is, without knowing more, as likely as not idle for another t.

Rules before any weighing: busy is never stopped (invariant 7), only taken out of routing, and that only when
the bound was hit; nothing goes within `min_residency_s` of getting hot, nothing that is pinned, nothing below
min_replicas. Work that has waited for `wait_bound_s` outweighs whatever is resident, also a steady stream
(invariant 8), except what has not had its turn: a turn is four times what changing over costs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from portal.fleet.states import SERVING
from scheduler.policy import autoscale, placement, profiles
from scheduler.policy.books import Books
from scheduler.policy.profiles import NewPilot, Nowhere
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView, ReplicaView

TURN = 4.0


@dataclass(frozen=True, slots=True)
class Leaver:
    replica: ReplicaView
    loss_s: float
    sleep_level: int  # how deep it may sleep instead of stopping, as far as memory allows


@dataclass(frozen=True, slots=True)
class Clearing:
    """The residents of a pilot whose leaving lets the pool in. `forced`: the bound was hit."""

    pilot: PilotView
    leavers: tuple[Leaver, ...]
    gain_s: float
    loss_s: float
    forced: bool


class Residents:
    """What could leave, by pilot, the cheapest first. Looked up once a tick, when the first pool asks."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._serving = Counter(
            r.pool for r in books.snapshot.replicas if r.state in SERVING and r.id not in books.gone
        )
        idle: dict[str, list[Leaver]] = defaultdict(list)
        steady: dict[str, list[Leaver]] = defaultdict(list)
        for replica in books.snapshot.replicas:
            pilot = books.pilots.get(replica.pilot)
            if (
                pilot is None
                or pilot.state != "up"
                or not books.is_open(pilot.id)
                or books.is_silent(pilot.id)
            ):
                continue
            if not self._evictable(replica):
                continue
            leaver = Leaver(replica, *self._loss(replica, pilot))
            steady[pilot.id].append(leaver)
            if replica.state == "asleep" or self._gives_way(replica):
                idle[pilot.id].append(leaver)
        self.idle = self._ordered(idle)
        self.all = self._ordered(steady)

    def spare(self, pool: str) -> int:
        """How many of its replicas may go yet."""
        there = self._books.pools.get(pool)
        return self._serving[pool] - (there.min_replicas if there is not None else 0)

    def gone(self, clearing: Clearing) -> None:
        self._serving.subtract(leaver.replica.pool for leaver in clearing.leavers)

    def _ordered(self, found: Mapping[str, list[Leaver]]) -> list[tuple[float, PilotView, list[Leaver]]]:
        for leavers in found.values():
            leavers.sort(key=lambda leaver: (leaver.loss_s, leaver.replica.id))
        pilots = sorted((leavers[0].loss_s, pilot) for pilot, leavers in found.items())
        return [(loss_s, self._books.pilots[pilot], found[pilot]) for loss_s, pilot in pilots]

    def _evictable(self, replica: ReplicaView) -> bool:
        books = self._books
        pool = books.pools.get(replica.pool)
        if replica.id in books.moved or (pool is not None and autoscale.is_pinned(pool, books.now)):
            return False
        if replica.state == "asleep":
            return True
        fresh = (
            replica.hot_at is not None and books.now - replica.hot_at < books.snapshot.limits.min_residency_s
        )
        return replica.state == "hot" and replica.in_flight is not None and not fresh

    def _gives_way(self, replica: ReplicaView) -> bool:
        pool = self._books.pools.get(replica.pool)
        idle = is_idle(replica, self._books.snapshot.limits.switch_after_s, self._books.now)
        return idle and (pool is None or pool.queued == 0)

    def _loss(self, replica: ReplicaView, pilot: PilotView) -> tuple[float, int]:
        books, pool = self._books, self._books.pools.get(replica.pool)
        if pool is None:
            return 0.0, 0
        sleep_level = 0 if replica.state == "asleep" else min(pool.sleep_level, replica.can_sleep)
        load_s = profiles.load_s(pool, profiles.gpu_type(pilot, books))
        reload_s = pool.wake_s if sleep_level and pool.wake_s is not None else load_s
        away_s = books.snapshot.limits.min_residency_s + load_s
        since = replica.asleep_at if replica.state == "asleep" else replica.idle_since
        again = 1.0 if since is None else away_s / max(away_s, away_s + books.now - since)
        share = max(1, self._serving[pool.name])
        asked = 1.0 if autoscale.is_asked(pool, books.now) else 0.0
        come = (replica.in_flight or 0) + (autoscale.urgent(pool) + asked + again) / share
        if replica.state == "asleep":
            return pool.weight * again * load_s, 0  # only its wake becomes a load
        return pool.weight * come * (reload_s + away_s / 2) + again * reload_s, sleep_level


def clear(
    pool: PoolView,
    spot: NewPilot | Nowhere,
    may: Mapping[str, ProfileView],
    residents: Residents,
    books: Books,
) -> Clearing | None:
    """The cheapest residents whose leaving is worth less than the pool's work; None: it waits, or gets `spot`."""
    limits = books.snapshot.limits
    bound_s = limits.wait_bound_s + (pool.waited_s or 0.0)
    silent = books.gone - books.leaving
    here = books.snapshot.by_pool[pool.name]
    served = any(replica.state in SERVING and replica.id not in silent for replica in here)
    if pool.queued and not served and (pool.waited_s or 0.0) >= limits.wait_bound_s:
        for _, pilot, leavers in residents.all:
            if pilot.id in books.filled:
                continue
            ripe = [leaver for leaver in leavers if _had_its_turn(leaver.replica, pool, books)]
            chosen = _fewest(pool, pilot, ripe, may, residents, books)
            if chosen:
                return Clearing(pilot, chosen, bound_s, _sum(chosen), forced=True)
    count = pool.weight * max(1.0, autoscale.urgent(pool))
    for cheapest_s, pilot, leavers in residents.idle:
        if pilot.id in books.filled:
            continue
        load_s = profiles.load_s(pool, profiles.gpu_type(pilot, books))
        else_s = min(bound_s, spot.ready_s - load_s) if isinstance(spot, NewPilot) else bound_s
        if cheapest_s >= count * else_s:
            break
        left_s = pilot.ends_at - books.now - load_s if pilot.ends_at is not None else else_s
        gain_s = count * min(else_s, left_s)
        willing = leavers if pool.queued else [x for x in leavers if not _asked_for(x.replica, books)]
        chosen = _fewest(pool, pilot, willing, may, residents, books)
        if chosen and gain_s > _sum(chosen) + load_s:
            return Clearing(pilot, chosen, gain_s, _sum(chosen) + load_s, forced=False)
    return None


def is_idle(replica: ReplicaView, for_s: float, now: float) -> bool:
    """Hot and heard to be idle for this long. Busy is never evicted (invariant 7), nor is what was not heard."""
    return (
        replica.state == "hot"
        and replica.in_flight == 0
        and replica.idle_since is not None
        and now - replica.idle_since >= for_s
    )


def _had_its_turn(replica: ReplicaView, pool: PoolView, books: Books) -> bool:
    """Resident long enough that changing over costs a fifth of the time at most, but no longer than the bound."""
    other, limits = books.pools.get(replica.pool), books.snapshot.limits
    if replica.state == "asleep" or replica.hot_at is None or other is None:
        return True
    turn_s = min(limits.wait_bound_s, TURN * (pool.load_s + other.load_s))
    idle = is_idle(replica, limits.switch_after_s, books.now)
    return books.now - replica.hot_at >= (limits.min_residency_s if idle else turn_s)


def _fewest(
    pool: PoolView,
    pilot: PilotView,
    leavers: Iterable[Leaver],
    may: Mapping[str, ProfileView],
    residents: Residents,
    books: Books,
) -> tuple[Leaver, ...]:
    """The fewest and cheapest of a pilot whose leaving lets the pool in; () when even all of them do not.

    First those that lie on the GPUs of a replica of the pool that sleeps there: on others it cannot wake. Else any, with
    memory for a new replica, to which one that sleeps may have to give its own."""
    if pilot.gpus < pool.gpus or pilot.profile not in may:
        return ()
    there = list(leavers)
    free, free_mb = set(books.free_gpus(pilot.id)), books.free_mb(pilot.id)
    for sleeper in _sleepers(pool, pilot, books):
        held = set(sleeper.home_gpus) - free
        on_them = [x for x in there if held.intersection(x.replica.gpu_indices)]
        if held <= {gpu for x in on_them for gpu in x.replica.gpu_indices}:
            others = [x for x in there if x.replica.id != sleeper.id]
            need_mb = pool.mem_mb - sleeper.mem_mb - free_mb
            if found := _least(pool, pilot, on_them, others, (0, need_mb), may, residents, books):
                return found
    need = pool.gpus - len(free), pool.mem_mb - free_mb
    return _least(pool, pilot, [], there, need, may, residents, books)


def _sleepers(pool: PoolView, pilot: PilotView, books: Books) -> list[ReplicaView]:
    return [
        replica
        for replica in books.snapshot.by_pilot[pilot.id]
        if replica.pool == pool.name
        and replica.state == "asleep"
        and replica.id not in books.moved
        and len(replica.home_gpus) == pool.gpus
    ]


def _least(
    pool: PoolView,
    pilot: PilotView,
    fixed: list[Leaver],
    leavers: list[Leaver],
    need: tuple[int, int],
    may: Mapping[str, ProfileView],
    residents: Residents,
    books: Books,
) -> tuple[Leaver, ...]:
    """`fixed` and the fewest of `leavers` beside them that free GPUs and host memory as `need` says, or ()."""
    need_gpus, need_mb = need
    chosen: list[Leaver] = []
    for leaver in (*fixed, *(x for x in leavers if x not in fixed)):
        gpus, mem_mb = _yield(chosen, books)
        if len(chosen) >= len(fixed) and gpus >= need_gpus and mem_mb >= need_mb:
            break
        name = leaver.replica.pool
        awake = leaver.replica.state != "asleep"
        helps = leaver in fixed or (awake and gpus < need_gpus) or (mem_mb < need_mb)
        going = sum(x.replica.pool == name and x.replica.state != "asleep" for x in chosen)
        spare = not awake or (residents.spare(name) > going and name != pool.name)
        if helps and spare and leaver.replica.id not in books.moved:
            chosen.append(leaver)
        elif leaver in fixed:
            return ()
    for leaver in sorted((x for x in chosen if x not in fixed), key=lambda x: -x.loss_s):
        rest = [x for x in chosen if x is not leaver]
        gpus, mem_mb = _yield(rest, books)
        if gpus >= need_gpus and mem_mb >= need_mb:
            chosen = rest
    gpus, mem_mb = _yield(chosen, books)
    if not chosen or gpus < need_gpus or mem_mb < need_mb:
        return ()
    more = pool.gpus - books.returned(pool, [x.replica for x in chosen])
    if not placement.may_enter(pool, pilot, may, books, more):
        return ()
    return _asleep_where_possible(chosen, need_mb, books)


def _yield(chosen: Iterable[Leaver], books: Books) -> tuple[int, int]:
    """GPUs and host memory that come free when all of them stop."""
    there = list(chosen)
    gpus = sum(len(x.replica.gpu_indices) for x in there if x.replica.state != "asleep")
    return gpus, sum(x.replica.mem_mb for x in there)


def _asleep_where_possible(chosen: list[Leaver], need_mb: int, books: Books) -> tuple[Leaver, ...]:
    """Those that can sleep do, as long as the pilot's memory holds what sleeps and what comes."""
    spare_mb = sum(x.replica.mem_mb for x in chosen) - need_mb
    found = []
    for leaver in chosen:
        level = leaver.sleep_level
        asleep_mb = leaver.replica.mem_mb - books.frees_mb(leaver.replica, level)
        if asleep_mb > spare_mb:
            level, asleep_mb = 0, 0
        spare_mb -= asleep_mb
        found.append(Leaver(leaver.replica, leaver.loss_s, level))
    return tuple(found)


def _asked_for(replica: ReplicaView, books: Books) -> bool:
    pool = books.pools.get(replica.pool)
    return pool is not None and autoscale.is_asked(pool, books.now)


def _sum(chosen: Iterable[Leaver]) -> float:
    return sum(leaver.loss_s for leaver in chosen)
