"""Failed launches in a row → when the next try may be, or a latch that only a person opens. Pure."""

from __future__ import annotations

from scheduler.policy.snapshot import Failure, HoldView, Limits, PoolView


def hold_of(pool: PoolView, limits: Limits, blocked: str) -> HoldView:
    """What the pool's stored state should say. `blocked`: why its demand cannot be met now, else "".

    1. latched → stays so until a `relaunch` command clears it.
    2. `latch_after` failures in a row → latched.
    3. fewer → the next try is launch_backoff_s · 2^(n-1) after the last one.
    4. none → whatever blocks it, or nothing.
    """
    if pool.hold.latched:
        return pool.hold
    count = len(pool.failures)
    if count == 0:
        return HoldView(reason=blocked)
    last = pool.failures[-1]
    if count >= limits.latch_after:
        times = "once" if count == 1 else f"{count} times in a row"
        return HoldView(
            count, None, True, f"Starting it failed {times}; the last time because: {last.reason}"
        )
    return HoldView(count, retry_at(pool.failures, limits), False, f"Starting it failed: {last.reason}")


def latched_by(pool: PoolView, reason: str) -> HoldView:
    """A latch at once, for what no further try can cure."""
    return HoldView(max(1, len(pool.failures)), None, True, reason)


def retry_at(failures: tuple[Failure, ...], limits: Limits) -> float:
    # To the millisecond, as it is stored: a hold that differs from the stored one is a new row.
    return round(failures[-1].at + limits.launch_backoff_s * 2.0 ** (len(failures) - 1), 3)
