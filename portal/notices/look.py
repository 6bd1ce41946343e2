"""One look: what happened becomes deliveries, what is due goes out. Called by Celery every few seconds, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.core.cache import cache

from portal.config import Config
from portal.notices import events
from portal.notices.models import Delivery, Wish
from portal.notices.plan import plan
from portal.notices.send import send

KEPT = timedelta(days=30)


def look(config: Config, clock: Callable[[], float] = time.time) -> None:
    _tell(config, datetime.fromtimestamp(clock(), UTC))
    send(config, clock)


def _tell(config: Config, now: datetime) -> None:
    plan(events.often(config, now), config, now)
    if cache.add(f"notices:hour:{now:%Y%m%d%H}", 1, 7200):
        plan(events.hourly(config, now), config, now)
        Delivery.objects.exclude(state=Delivery.State.PENDING).filter(ended_at__lt=now - KEPT).delete()
        Wish.objects.filter(created_at__lt=now - events.WISH_LIVES).delete()
