"""Pools that have to wait for room → where their weights are copied meanwhile, so that their load is shorter. Pure.

A pilot gets one wish at a time, and a pool one pilot: staging is cheap, and still reads a shared file system and fills
a disk that others use. Only where the profile names a scratch folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scheduler.policy import placement
from scheduler.policy.books import Books
from scheduler.policy.decisions import StageWeights
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView

MOST = 8  # pools looked at in one tick, those that have waited longest first


@dataclass(frozen=True, slots=True)
class Waiting:
    pool: PoolView
    may: Mapping[str, ProfileView]  # the profiles that it may use now


def ahead(waiting: Sequence[Waiting], books: Books) -> Iterator[StageWeights]:
    """1. Where room is being cleared for it. 2. Else in a pilot that it could enter, if one had room: the one with the
    most room now. Not where its weights lie on one of them already, or are on their way."""
    disks = {
        p.id: p
        for p in books.snapshot.pilots
        if p.state == "up" and p.serves and p.scratch and not books.is_silent(p.id)
    }
    asked = {wait.pool.name for wait in waiting}
    for wait in waiting[:MOST] if disks else ():
        pool = wait.pool
        promised = books.promised.get(pool.name)
        near = [disks[promised]] if promised in disks else []
        near = near or [pilot for pilot in disks.values() if _could_enter(wait, pilot, books)]
        if any(pool.name in pilot.staged or pilot.stage_wish == pool.name for pilot in near):
            continue
        able = [pilot for pilot in near if _is_free(pilot, asked)]
        if not able:
            continue
        best = min(able, key=lambda pilot: (-len(books.free_gpus(pilot.id)), pilot.id))
        del disks[best.id]
        reason = f"{pool.name} waits for room: its weights are copied to the node meanwhile."
        inputs = {"queued": pool.queued, "promised": best.id == promised}
        yield StageWeights(pool=pool.name, pilot=best.id, reason=reason, inputs=dict(inputs))


def _could_enter(wait: Waiting, pilot: PilotView, books: Books) -> bool:
    pool = wait.pool
    return (
        pilot.gpus >= pool.gpus
        and pilot.mem_mb >= pool.mem_mb
        and placement.may_enter(pool, pilot, wait.may, books, pool.gpus)
    )


def _is_free(pilot: PilotView, asked: set[str]) -> bool:
    """Its last wish has been met, or nobody waits for that any more."""
    return not pilot.stage_wish or pilot.stage_wish in pilot.staged or pilot.stage_wish not in asked
