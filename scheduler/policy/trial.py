"""One replica of a pool, whatever holds the pool back: what `decide` would do for it if somebody asked. Pure.

Separate from `decide`, and through it: a test launch goes where real work would go, but it ignores pauses, latches
and failures of the past, makes nobody leave, and decides nothing for anyone else.
"""

from __future__ import annotations

from dataclasses import replace

from scheduler.policy.decide import decide
from scheduler.policy.decisions import HoldPool, LaunchPilot, PlaceReplica, WakeReplica
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import HoldView, PoolView

Start = LaunchPilot | PlaceReplica | WakeReplica


def trial(name: str, snapshot: Snapshot) -> tuple[Start | None, str]:
    """Return how a replica of the pool of this name is started, or None and why there is no way now."""
    supposed = replace(
        snapshot,
        pools=tuple(_asked_for(pool, snapshot) if pool.name == name else pool for pool in snapshot.pools),
        profiles=tuple(replace(profile, latched="") for profile in snapshot.profiles),
        paused=frozenset(),
    )
    why = "There is no room for it now."
    for decision in decide(supposed):
        if isinstance(decision, Start) and decision.pool == name:
            return decision, ""
        if isinstance(decision, HoldPool) and decision.pool == name and decision.hold.reason:
            why = decision.hold.reason
    return None, why


def _asked_for(pool: PoolView, snapshot: Snapshot) -> PoolView:
    """Return the pool as if nothing held it back and somebody asked for it."""
    return replace(pool, paused=False, failures=(), hold=HoldView(), interest_until=snapshot.now + 1.0)
