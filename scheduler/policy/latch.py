"""Failed launches in a row → when the next try may be, or a latch that only a person opens. Pure."""

from __future__ import annotations

from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import Failure, HoldView, Limits, PoolView


def hold_of(pool: PoolView, snapshot: Snapshot, blocked: str) -> HoldView:
    """Return what the pool's stored state should say. `blocked`: why its demand cannot be met now, else "".

    1. latched → stays so until a `relaunch` command clears it.
    2. `latch_after` failures in a row → latched.
    3. fewer → the next try is launch_backoff_s · 2^(n-1) after the last one.
    4. none → whatever blocks it, or nothing.
    """
    if pool.hold.latched:  # 1
        return pool.hold
    count = len(pool.failures)
    if count == 0:  # 4
        return HoldView(reason=blocked)
    last = pool.failures[-1]
    if count >= snapshot.limits.latch_after:  # 2
        times = "once" if count == 1 else f"{count} times in a row"
        return HoldView(
            count, None, True, f"Starting it failed {times}; the last time because: {last.reason}"
        )
    retry_at = _retry_at(pool.failures, snapshot.limits)  # 3
    return HoldView(count, retry_at, False, f"Starting it failed: {last.reason}")


def latched_by(pool: PoolView, reason: str) -> HoldView:
    """Return a latch at once, for what no further try can cure."""
    return HoldView(max(1, len(pool.failures)), None, True, reason)


def _retry_at(failures: tuple[Failure, ...], limits: Limits) -> float:
    """Return when the next try may be."""
    # To the millisecond, as it is stored: a hold that differs from the stored one is a new row.
    return round(failures[-1].at + limits.launch_backoff_s * 2.0 ** (len(failures) - 1), 3)
