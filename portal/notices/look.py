"""One look: what happened becomes deliveries, what is due goes out. Called by Celery every few seconds.

One process at a time sends, by an advisory lock, and each attempt is written down before it is made: a second look at the
same moment finds nothing, and one that dies in the middle tries again later. Only that one may be heard twice; the id
in it tells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.core.cache import cache
from django.db import connection
from django.db.models import F

from portal.config import Config
from portal.notices import events
from portal.notices.models import Delivery, Wish
from portal.notices.plan import plan
from portal.notices.post import NotSent, post

log = logging.getLogger(__name__)

LOCK = 0x6E6F7469  # of the session that sends
RETRY_S = (30, 120, 600, 3600, 6 * 3600)  # after the first, second … attempt; then it has failed
MOST_AT_ONCE = 100
BUDGET_S = 15.0  # no new attempt after that: the next look is soon
KEPT = timedelta(days=30)


def look(config: Config, clock: Callable[[], float] = time.time) -> bool:
    """False when another process is at it."""
    with connection.cursor() as cur:
        cur.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        if not cur.fetchone()[0]:
            return False
        try:
            _tell(config, datetime.fromtimestamp(clock(), UTC))
            _send(config, clock)
        finally:
            cur.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    return True


def _tell(config: Config, now: datetime) -> None:
    plan(events.often(config, now), config, now)
    if cache.add(f"notices:hour:{now:%Y%m%d%H}", 1, 7200):
        plan(events.hourly(config, now), config, now)
        Delivery.objects.exclude(state=Delivery.State.PENDING).filter(ended_at__lt=now - KEPT).delete()
        Wish.objects.filter(created_at__lt=now - events.WISH_LIVES).delete()


def _send(config: Config, clock: Callable[[], float]) -> None:
    ends = time.monotonic() + BUDGET_S
    now = datetime.fromtimestamp(clock(), UTC)
    due = Delivery.objects.filter(state=Delivery.State.PENDING, next_at__lte=now)
    failing: set[int | None] = set()
    for delivery in due.select_related("user", "webhook").order_by("next_at")[:MOST_AT_ONCE]:
        if time.monotonic() > ends:
            return
        # Who has just failed is not asked again in this look: others wait behind it.
        if delivery.webhook_id not in failing and not _attempt(delivery, config, now):
            failing.add(delivery.webhook_id)


def _attempt(delivery: Delivery, config: Config, now: datetime) -> bool:
    """Whether the way is good."""
    attempt = delivery.attempts
    wait_s = RETRY_S[min(attempt, len(RETRY_S) - 1)]
    mine = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.PENDING, attempts=attempt)
    if not mine.update(attempts=F("attempts") + 1, next_at=now + timedelta(seconds=wait_s)):
        return True
    try:
        post(delivery, config)
    except NotSent as error:
        _failed(delivery, error, attempt, now)
        return delivery.webhook_id is None
    Delivery.objects.filter(pk=delivery.pk).update(state=Delivery.State.SENT, ended_at=now, error="")
    return True


def _failed(delivery: Delivery, error: NotSent, attempt: int, now: datetime) -> None:
    log.info("delivery %d, attempt %d: %s", delivery.pk, attempt + 1, error)
    said = {"error": str(error)[:200]}
    rows = Delivery.objects.filter(pk=delivery.pk)
    if error.final or attempt >= len(RETRY_S):
        rows.update(state=Delivery.State.FAILED, ended_at=now, **said)
    else:
        rows.update(**said)
