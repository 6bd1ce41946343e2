"""Deliveries that are due → out, in lines beside each other: one per webhook, one for mail.

Nobody waits for a receiver that is slow: its own line does. The caller's thread claims and writes, others only post; and
each attempt is written down before it is made, so that one who dies in the middle of it tries again later. Only that
attempt may be heard twice; the id in it tells. All of it ends after `BUDGET_S` and `post.LIMIT_S`, whatever the other
sides do.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta

from django.db.models import F, Window
from django.db.models.functions import RowNumber

from portal.config import Config
from portal.notices import post
from portal.notices.models import Delivery

log = logging.getLogger(__name__)

RETRY_S = (30, 120, 600, 3600, 6 * 3600)  # after the first, second … attempt; then it is given up
BESIDE = 16  # lines at once
BUDGET_S = 5.0  # no new attempt after that: the next look is soon
GRACE_S = 1.0  # beyond an attempt's own limit
MOST_OF_LINE = 50
MOST_AT_ONCE = 500

Line = deque[Delivery]


def send(config: Config, clock: Callable[[], float] = time.time) -> None:
    now = datetime.fromtimestamp(clock(), UTC)
    lines = _lines(now)
    ends = time.monotonic() + BUDGET_S
    running: dict[Future[None], tuple[Delivery, Line]] = {}
    threads = ThreadPoolExecutor(BESIDE, "notices")
    try:
        while True:
            while lines and len(running) < BESIDE and time.monotonic() < ends:
                line = lines.popleft()
                delivery = line.popleft()
                if _claim(delivery, now):
                    running[threads.submit(post.post, delivery, config)] = (delivery, line)
            if not running:
                return
            left_s = ends + post.LIMIT_S + GRACE_S - time.monotonic()
            for future in wait(running, max(left_s, 0), FIRST_COMPLETED).done or list(running):
                delivery, line = running.pop(future)
                if _settle(future, delivery, line, now) and line:
                    lines.append(line)
    finally:
        # A name server or a mail server that hangs keeps a thread of its own a little longer, and nobody else.
        threads.shutdown(wait=False, cancel_futures=True)


def _lines(now: datetime) -> deque[Line]:
    """Return the deliveries that are due, one line per webhook; what failed before comes last, in its line and among
    the lines."""
    place = Window(RowNumber(), partition_by=F("webhook"), order_by=["attempts", "next_at", "pk"])
    due = Delivery.objects.filter(state=Delivery.State.PENDING, next_at__lte=now).annotate(place=place)
    rows = due.filter(place__lte=MOST_OF_LINE).select_related("user", "webhook")
    lines: dict[int | None, Line] = {}
    for delivery in rows.order_by("place", "attempts", "next_at")[:MOST_AT_ONCE]:
        lines.setdefault(delivery.webhook_id, deque()).append(delivery)
    return deque(lines.values())


def _claim(delivery: Delivery, now: datetime) -> bool:
    """Write the attempt down. Return False where another process was first."""
    wait_s = RETRY_S[min(delivery.attempts, len(RETRY_S) - 1)]
    mine = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.PENDING, attempts=delivery.attempts)
    return bool(mine.update(attempts=F("attempts") + 1, next_at=now + timedelta(seconds=wait_s)))


def _settle(future: Future[None], delivery: Delivery, line: Line, now: datetime) -> bool:
    """Write what became of the attempt; return whether its line goes on in this look."""
    error = _error(future, delivery)
    if error is None:
        Delivery.objects.filter(pk=delivery.pk).update(state=Delivery.State.SENT, ended_at=now, error="")
        return True
    _failed(delivery, error, now)
    if error.is_silent:
        # Nobody is there: what is behind it in the line is not tried one by one, and ages with it.
        for other in line:
            if _claim(other, now):
                _failed(other, error, now)
        return False
    return delivery.webhook_id is None


def _error(future: Future[None], delivery: Delivery) -> post.NotSent | None:
    if not future.done():
        return post.NotSent("There was no answer in time.", is_silent=True)
    try:
        future.result()
    except post.NotSent as error:
        return error
    except Exception:
        log.exception("delivery %d", delivery.pk)
        return post.NotSent("Berth could not send it; its log says why.")
    return None


def _failed(delivery: Delivery, error: post.NotSent, now: datetime) -> None:
    attempt = delivery.attempts + 1
    log.info("delivery %d, attempt %d: %s", delivery.pk, attempt, error)
    said = {"error": str(error)[:200]}
    row = Delivery.objects.filter(pk=delivery.pk)
    if error.is_final or attempt > len(RETRY_S):
        row.update(state=Delivery.State.FAILED, ended_at=now, **said)
    else:
        row.update(**said)
