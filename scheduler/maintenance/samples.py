"""A snapshot → one row a minute of what the GPUs did and who waited, from which pages draw their pictures.

Separate from `measures`: nothing reckons with these. Older ones are forgotten.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from portal.db.transaction import moving
from portal.fleet.models import Sample
from portal.fleet.states import COMING, ON_ITS_WAY
from scheduler.policy.snapshot import Snapshot

EVERY_S = 60
KEPT = timedelta(days=8)
WAITS_OVER = timedelta(minutes=5)
# Of the requests accepted last, so many are looked at: no index leads to those that were handed out last, and
# one more would be paid for by every request.
_LOOKED_AT = 10_000


def take(cluster: str, snapshot: Snapshot, now: float) -> None:
    """Write a row once a minute, by the tick that comes first in it. Of the whole fleet; `cluster`: under whose name."""
    at = datetime.fromtimestamp(now // EVERY_S * EVERY_S, UTC)
    if Sample.objects.filter(cluster=cluster, at=at).exists():
        return
    p50_s, p95_s = _waits(datetime.fromtimestamp(now, UTC))
    held = sum(pool.queued_held for pool in snapshot.pools)
    batch = sum(pool.queued_batch for pool in snapshot.pools)
    waited = [pool.waited_s for pool in snapshot.pools if pool.waited_s is not None]
    Sample.objects.create(
        cluster=cluster,
        at=at,
        **gpus(snapshot),
        running=sum(pool.running for pool in snapshot.pools),
        queued_held=held,
        queued_async=sum(pool.queued for pool in snapshot.pools) - held - batch,
        queued_batch=batch,
        parked=_parked(),
        wait_p50_s=p50_s,
        wait_p95_s=p95_s,
        oldest_s=max(waited, default=None),
    )
    Sample.objects.filter(cluster=cluster, at__lt=at - KEPT).delete()


def gpus(snapshot: Snapshot) -> dict[str, int]:
    """Return how many GPUs do what. Pure. What its agent does not tell of counts as ready."""
    doing = {"busy": 0, "ready": 0, "loading": 0, "empty": 0, "asked": 0}
    for pilot in snapshot.pilots:
        if pilot.state in ON_ITS_WAY:
            doing["asked"] += pilot.gpus
            continue
        free = pilot.gpus
        for replica in snapshot.by_pilot[pilot.id]:
            use = "loading" if replica.state in COMING else "busy" if replica.in_flight else "ready"
            doing[use] += len(replica.gpu_indices)
            free -= len(replica.gpu_indices)
        doing["empty"] += max(0, free)
    return doing


def _parked() -> int:
    with moving() as cur:
        cur.execute("SELECT greatest(coalesce(sum(n), 0), 0) FROM ledger_depth WHERE state = 'parked'")
        (n,) = cur.fetchone() or (0,)
    return int(n)


def _waits(now: datetime) -> tuple[float | None, float | None]:
    """Return the median and 95th percentile of the waits that ended a short while ago, batches left out."""
    with moving() as cur:
        cur.execute(
            """SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY wait_s),
                 percentile_cont(0.95) WITHIN GROUP (ORDER BY wait_s)
               FROM (SELECT lane, granted_at, extract(epoch FROM granted_at - accepted_at) AS wait_s
                     FROM ledger_request ORDER BY accepted_at DESC LIMIT %s) last
               WHERE lane <> 'batch' AND granted_at > %s""",
            (_LOOKED_AT, now - WAITS_OVER),
        )
        p50_s, p95_s = cur.fetchone() or (None, None)
    return _number(p50_s), _number(p95_s)


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))
