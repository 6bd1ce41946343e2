"""Residents of one pilot that could leave → the fewest and cheapest of them that let a pool in. Pure.

Separate from switching, which weighs whether their leaving is worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scheduler.policy import placement
from scheduler.policy.allocation import Allocation
from scheduler.policy.profiles import Claim
from scheduler.policy.views import PilotView, ReplicaView


@dataclass(frozen=True, slots=True)
class Leaver:
    """Name a replica that could leave, and what that would cost."""

    replica: ReplicaView
    loss_s: float
    sleep_level: int  # how deep it may sleep instead of stopping, as far as memory allows

    @property
    def gpus(self) -> int:
        """Return how many GPUs come free when it stops."""
        return len(self.replica.gpu_indices)


@dataclass(frozen=True, slots=True)
class Need:
    """Say what has to come free."""

    gpus: int
    mem_mb: int

    def is_met_by(self, leavers: Iterable[Leaver]) -> bool:
        """Return whether so much comes free when all of them stop."""
        there = tuple(leavers)
        return (
            sum(leaver.gpus for leaver in there) >= self.gpus
            and sum(leaver.replica.mem_mb for leaver in there) >= self.mem_mb
        )


# How many replicas of a pool may go yet.
Spare = Callable[[str], int]


def loss_s(leavers: Iterable[Leaver]) -> float:
    """Return what the leaving of all of them costs, in seconds that requests wait."""
    return sum(leaver.loss_s for leaver in leavers)


def fewest(
    claim: Claim, pilot: PilotView, leavers: Sequence[Leaver], spare: Spare, allocation: Allocation
) -> tuple[Leaver, ...]:
    """Return the fewest and cheapest of a pilot whose leaving lets the pool in; () when even all of them do not.

    First those that lie on the GPUs of a replica of the pool that sleeps there: on others it cannot wake. Else any, with
    memory for a new replica, to which one that sleeps may have to give its own."""
    pool = claim.pool
    free, free_mb = allocation.free_gpus(pilot.id), allocation.free_mb(pilot.id)
    for sleeper in _sleepers(claim, pilot, allocation):
        missing = set(sleeper.home_gpus).difference(free)
        on_them = [x for x in leavers if missing.intersection(x.replica.gpu_indices)]
        if missing <= {gpu for x in on_them for gpu in x.replica.gpu_indices}:
            others = [x for x in leavers if x.replica.id != sleeper.id]
            need = Need(0, pool.mem_mb - sleeper.mem_mb - free_mb)
            if chosen := _let_in(claim, pilot, (on_them, others), need, spare, allocation):
                return chosen
    need = Need(pool.gpus - len(free), pool.mem_mb - free_mb)
    return _let_in(claim, pilot, ([], leavers), need, spare, allocation)


def _sleepers(claim: Claim, pilot: PilotView, allocation: Allocation) -> list[ReplicaView]:
    """Return the pool's own replicas that sleep in the pilot and are shaped as new ones would be."""
    return [
        replica
        for replica in allocation.snapshot.asleep[claim.pool.name]
        if replica.pilot == pilot.id
        and replica.id not in allocation.moved
        and len(replica.home_gpus) == claim.pool.gpus
    ]


def _let_in(
    claim: Claim,
    pilot: PilotView,
    leavers: tuple[Sequence[Leaver], Sequence[Leaver]],
    need: Need,
    spare: Spare,
    allocation: Allocation,
) -> tuple[Leaver, ...]:
    """Return those that must leave and the fewest of those that may beside them (`leavers`: both) that free what is
    needed; () when they do not, or the pool may not enter."""
    chosen = _least(claim, leavers, need, spare, allocation)
    if not chosen or not need.is_met_by(chosen):
        return ()
    more_gpus = claim.pool.gpus - allocation.returned(claim.pool, [leaver.replica for leaver in chosen])
    if not placement.may_enter(claim, pilot, allocation, more_gpus):
        return ()
    return _asleep_where_possible(chosen, need.mem_mb, allocation)


def _least(
    claim: Claim,
    leavers: tuple[Sequence[Leaver], Sequence[Leaver]],
    need: Need,
    spare: Spare,
    allocation: Allocation,
) -> list[Leaver]:
    """Return those that must leave and, the cheapest first, what helps beside them, without what turns out not to be
    needed; [] when one that must leave may not."""
    must, may = leavers
    chosen: list[Leaver] = []
    gpus = mem_mb = 0
    for place, leaver in enumerate([*must, *(x for x in may if x not in must)] if must else may):
        if place >= len(must) and gpus >= need.gpus and mem_mb >= need.mem_mb:
            break
        replica, fixed = leaver.replica, place < len(must)
        helps = fixed or (not replica.is_asleep and gpus < need.gpus) or mem_mb < need.mem_mb
        if helps and replica.id not in allocation.moved and _may_go(claim, replica, chosen, spare):
            chosen.append(leaver)
            gpus += leaver.gpus
            mem_mb += replica.mem_mb
        elif fixed:
            return []
    beside = chosen[len(must) :]
    # The last one was needed when it was chosen: alone it cannot turn out not to be.
    for leaver in sorted(beside, key=lambda x: -x.loss_s) if len(beside) > 1 else ():
        rest = [x for x in chosen if x is not leaver]
        if need.is_met_by(rest):
            chosen = rest
    return chosen


def _may_go(claim: Claim, replica: ReplicaView, chosen: Iterable[Leaver], spare: Spare) -> bool:
    """Return whether its pool can do without it, when those that are chosen already go too."""
    if replica.is_asleep:
        return True
    going = sum(x.replica.pool == replica.pool and not x.replica.is_asleep for x in chosen)
    return replica.pool != claim.pool.name and spare(replica.pool) > going


def _asleep_where_possible(
    chosen: Iterable[Leaver], need_mb: int, allocation: Allocation
) -> tuple[Leaver, ...]:
    """Let those sleep that can, as long as the pilot's memory holds what sleeps and what comes."""
    there = tuple(chosen)
    spare_mb = sum(leaver.replica.mem_mb for leaver in there) - need_mb
    settled = []
    for leaver in there:
        level = leaver.sleep_level
        asleep_mb = leaver.replica.mem_mb - allocation.frees_mb(leaver.replica, level)
        if asleep_mb > spare_mb:
            level, asleep_mb = 0, 0
        spare_mb -= asleep_mb
        settled.append(Leaver(leaver.replica, leaver.loss_s, level))
    return tuple(settled)
