"""What pilots did → the figures that policies and ETAs reckon with: engine time of a request, Slurm's waits.

Load times are written where they are reported (`portal.workerapi.reports`); these need a look at many at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from portal.db.transaction import moving
from portal.fleet.models import Cluster, Fit, Pilot, PoolState, ProfileState
from scheduler.observe.reports import Heard

EVERY_S = 30.0
WAITS_OVER = timedelta(days=1)
# A new figure that differs by less is not worth a write.
WORTH_WRITING = 0.05


def remember(cluster: Cluster, pilots: Iterable[Pilot], heard: Mapping[str, Heard], now: float) -> None:
    """Write what changed, every EVERY_S at most; of the pilots of all clusters. `cluster`: whose row keeps the time."""
    if cluster.measured_at is not None and now - cluster.measured_at.timestamp() < EVERY_S:
        return
    at = datetime.fromtimestamp(now, UTC)
    gpu_types = {str(pilot.pk): pilot.gpu_type for pilot in pilots}
    _service(service_times(gpu_types, heard), at)
    _waits(at)
    cluster.measured_at = at
    cluster.save(update_fields=["measured_at"])


def service_times(
    gpu_types: Mapping[str, str], heard: Mapping[str, Heard]
) -> dict[tuple[str, str], tuple[int, float]]:
    """Return, by (pool, GPU type), requests and the seconds spent on them, over the lives of those that report. Pure."""
    sums: dict[tuple[str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for pilot, report in heard.items():
        for replica in report.replicas.values():
            if replica.served > 0:
                key = replica.pool, gpu_types.get(pilot, "")
                n, spent_s = sums[key]
                sums[key] = n + replica.served, spent_s + replica.busy_s
    return dict(sums)


def _service(sums: Mapping[tuple[str, str], tuple[int, float]], at: datetime) -> None:
    pools: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for (pool, _), (n, spent_s) in sums.items():
        pools[pool] = pools[pool][0] + n, pools[pool][1] + spent_s
    known = dict(PoolState.objects.filter(pool__in=pools).values_list("pool_id", "service_s"))
    for pool, (n, spent_s) in pools.items():
        if pool in known and _differs(known[pool], spent_s / n):
            PoolState.objects.filter(pool=pool).update(service_s=spent_s / n, measured_at=at)
    fits = {(f.pool_id, f.gpu_type): f for f in Fit.objects.filter(pool__in=pools)}
    for (pool, gpu_type), (n, spent_s) in sums.items():
        fit = fits.get((pool, gpu_type))
        if fit is not None and _differs(fit.service_s, spent_s / n):
            fit.service_s = spent_s / n
            fit.save(update_fields=["service_s", "updated_at"])


def _waits(at: datetime) -> None:
    """Write how long jobs of each profile waited until their agents spoke.

    Not only until the job ran: a Python on a busy file system takes its time, too, and nothing loads before."""
    with moving() as cur:
        cur.execute(
            """SELECT profile_id, percentile_cont(0.5) WITHIN GROUP (ORDER BY wait_s),
                 percentile_cont(0.9) WITHIN GROUP (ORDER BY wait_s)
               FROM (SELECT profile_id, extract(epoch FROM registered_at - submitted_at) AS wait_s
                     FROM fleet_pilot
                     WHERE planned_at > %s AND registered_at >= submitted_at) waits
               GROUP BY profile_id""",
            (at - WAITS_OVER,),
        )
        found: list[tuple[Any, ...]] = cur.fetchall()
    known = {state.profile_id: state for state in ProfileState.objects.all()}
    for profile, p50, p90 in found:
        state = known.get(profile) or ProfileState(profile_id=profile)
        if _differs(state.wait_p50_s, float(p50)) or _differs(state.wait_p90_s, float(p90)):
            state.wait_p50_s, state.wait_p90_s = float(p50), float(p90)
            if profile in known:
                state.save(update_fields=["wait_p50_s", "wait_p90_s"])
            else:
                state.save()


def _differs(old: float | None, new: float) -> bool:
    return old is None or abs(new - old) > WORTH_WRITING * max(abs(old), abs(new))
