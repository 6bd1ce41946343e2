"""A request that waits → why, and for how long: its place in line, its pool's phase, or the quota that parks it.

Separate from `telling`, which tells what happened; this is about what has not happened yet.
"""

from __future__ import annotations

import time

import redis
from django.db import connection

from gpuworker.wire import estimate_at
from portal.admission import quotas
from portal.admission.subjects import Subjects
from portal.db.connections import plain
from portal.fleet.explain import explain, in_line
from portal.fleet.facts import read_facts
from portal.fleet.phase import Part, Phase
from portal.fleet.times import clock, span
from portal.ledger.models import Payload, Request, Ticket
from portal.ledger.states import RequestState
from portal.policy import estimate
from portal.policy.limits import WORDS


def why(row: Request, position: int | None) -> Phase | None:
    """Explain why a request waits; None when it does not. `position`: 1 = next."""
    now = time.time()
    if row.state == RequestState.PARKED:
        return _parked(row, now)
    if row.state != RequestState.QUEUED:
        return None
    away = Ticket.objects.filter(request=row, claimed_by__isnull=True).first()
    if away is not None:
        return _away(away, now)
    with connection.cursor() as cur:
        facts = read_facts(plain(cur), [row.pool]).get(row.pool)
    if facts is None:
        return Phase("unavailable", None, f"{row.model} is not in the catalog any more.")
    return in_line(explain(facts, now).named(row.model), position)


def _away(ticket: Ticket, now: float) -> Phase:
    kept = clock(ticket.expires_at.timestamp(), now)
    return Phase(
        "not_loaded",
        None,
        "Its client was told to send it again. It does not run before that, and its place in the queue is kept until "
        f"{kept}.",
        next_step="Send the same request again: it takes this place.",
    )


def _parked(row: Request, now: float) -> Phase:
    """Explain a request over a rate that refills.

    Others of its owner may be parked before it, so the time is the earliest one.
    """
    subjects = Subjects(row.token_id, row.user_id, row.project_id, row.model)
    try:
        with connection.cursor() as cur:
            refill = quotas.refill(plain(cur), subjects, _cost(row), now)
    except (redis.RedisError, OSError):
        reason = "It is parked: the state of your quotas is unknown, because Redis does not answer."
        return Phase("not_loaded", None, reason)
    if refill is None:
        return Phase("not_loaded", None, "It is parked; no quota applies any more, and it resumes now.")
    want, wait_s = refill
    limit = f"{want.limit} {WORDS[want.kind]} of this {want.level}"
    if wait_s <= 0:
        text = f"the quota of {limit} has room again; others parked before it go first"
        return Phase("not_loaded", None, f"It is parked: {text}.", (Part("quota", text, None),))
    text = f"the quota of {limit} has room for it at {clock(now + wait_s, now)}, in {span(wait_s)}, at the earliest"
    return Phase("not_loaded", None, f"It is parked: {text}.", (Part("quota", text, wait_s),))


def _cost(row: Request) -> int:
    body = Payload.objects.filter(request=row).values_list("body", flat=True).first()
    return estimate.of_row(row.batch_length, body, estimate_at(row.api))
