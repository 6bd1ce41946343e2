"""Jobs that wait in Slurm's line for models that nobody wants any more. Pure.

Separate from keep-alive, which lets go of what runs: a place in the line costs nothing and took long to earn, so it
outlives its callers for as long as the model itself would have.
"""

from __future__ import annotations

from collections.abc import Iterator

from portal.fleet.states import ON_ITS_WAY
from scheduler.policy import autoscale
from scheduler.policy.books import Books
from scheduler.policy.decisions import CancelPilot


def unwanted_jobs(books: Books) -> Iterator[CancelPilot]:
    """Those on their way whose every replica is older than its pool's keep-alive, of pools that want none."""
    unwanted = {
        pool.name: pool
        for pool in books.snapshot.pools
        if autoscale.target(pool, books.snapshot, books.now).wanted == 0
    }
    for pilot in books.snapshot.pilots:
        waiting = books.snapshot.by_pilot[pilot.id]
        if pilot.state not in ON_ITS_WAY or pilot.hopeless or pilot.id in books.filled or not waiting:
            continue
        if books.is_silent(pilot.id):
            continue
        if all(
            replica.pool in unwanted and books.now - replica.wanted_at >= unwanted[replica.pool].keep_alive_s
            for replica in waiting
        ):
            names = ", ".join(sorted({replica.pool for replica in waiting}))
            waited_s = books.now - pilot.planned_at
            yield CancelPilot(
                pilot=pilot.id,
                failed=False,
                reason=f"Nobody wants {names} any more: its job is withdrawn before it starts.",
                inputs={"waited_s": round(waited_s, 1), "queued": 0},
            )
