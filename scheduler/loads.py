"""Measured load times → the pool's usual load time, which people see as an ETA and placement reckons with."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta

from django.db.models import F

from portal.fleet.models import PoolState, Replica

_LATELY = timedelta(minutes=1)
_SAMPLES = 5


def remember(now: float) -> None:
    """The median of the last few loads of each pool that loaded lately, in seconds."""
    lately = datetime.fromtimestamp(now, UTC) - _LATELY
    loaded = Replica.objects.filter(hot_at__isnull=False, started_at__isnull=False)
    for pool in loaded.filter(hot_at__gt=lately).values_list("pool_id", flat=True).distinct():
        last = loaded.filter(pool_id=pool).order_by("-hot_at").annotate(took=F("hot_at") - F("started_at"))
        load_s = statistics.median(
            took.total_seconds() for took in last.values_list("took", flat=True)[:_SAMPLES]
        )
        state, _ = PoolState.objects.get_or_create(pool_id=pool)
        if load_s > 0 and state.load_s != load_s:
            PoolState.objects.filter(pk=state.pk).update(load_s=load_s)
