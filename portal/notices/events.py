"""The tables as they stand → what is to be told, each event with a name of its own that never changes.

It only reads, and asks again and again: an event is told once because its name is, not because somebody remembered to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from django.db import connection
from django.db.models import Count

from portal.accounts.models import ApiToken
from portal.catalog.models import Model
from portal.config import Config
from portal.db.connections import plain
from portal.fleet.models import PoolState, WayState
from portal.fleet.residency import residency
from portal.fleet.times import span
from portal.ledger import lines
from portal.ledger.models import Batch, File, Request
from portal.ledger.states import Lane, RequestState
from portal.notices.models import Kind, Wish

TOLD_WITHIN = timedelta(hours=24)  # whoever was away for longer tells old news no more
WISH_LIVES = timedelta(hours=24)
SILENT_FOR = timedelta(minutes=5)
WORDS = {"completed": "is finished", "failed": "has failed", "expired": "has expired"}
# A token that lives shortly needs no word a week before.
TOKEN_DAYS = ((7, timedelta(days=14)), (1, timedelta(days=2)))


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that people are told. `user`, `project`: whose it is; neither: the operators'. `data` is for
    programs; `page` is where one sees more."""

    name: str
    kind: Kind
    page: str
    subject: str
    text: str
    user: int | None = None
    project: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


def often(config: Config, now: datetime) -> Iterator[Event]:
    yield from _ready(now)
    yield from _batches(now)
    yield from _latched()
    yield from _silent(now)
    yield from _old(config, now)


def hourly(config: Config, now: datetime) -> Iterator[Event]:
    yield from _tokens(now)
    yield from _results(config, now)
    yield from _files(now)


def _ready(now: datetime) -> Iterator[Event]:
    wishes = list(Wish.objects.filter(created_at__gt=now - WISH_LIVES))
    if not wishes:
        return
    models = Model.objects.filter(name__in={wish.model for wish in wishes}).select_related("pool")
    ready = {shown.model.name for shown in residency(models) if shown.phase.residency == "ready"}
    for wish in wishes:
        if wish.model in ready:
            yield Event(
                f"ready:{wish.pk}", Kind.MODEL_READY, f"/?use={quote(wish.model, safe='')}#use", f"{wish.model} is ready",
                f"You asked to be notified: {wish.model} is loaded and ready. It stays loaded while it is used.",
                user=wish.user_id, data={"model": wish.model},
            )  # fmt: skip


def _batches(now: datetime) -> Iterator[Event]:
    for batch in Batch.objects.filter(ended_at__gt=now - TOLD_WITHIN, state__in=list(WORDS)):
        name = f"batch_{batch.pk}"  # as the API writes it
        counts = f"{batch.completed} of {batch.total} requests were completed"
        why = f"{counts}, {batch.failed} failed." if batch.total else "Its page lists the errors in its file."
        yield Event(
            f"batch:{batch.pk}", Kind.BATCH_ENDED, f"/batches/{batch.pk}/", f"Batch {name} {WORDS[batch.state]}",
            f"Your batch {name} {WORDS[batch.state]}: {why}" if batch.total else
            f"Your batch {name} {WORDS[batch.state]}. {why}",
            user=batch.user_id, project=batch.project_id,
            data={"batch": name, "state": batch.state, "total": batch.total, "completed": batch.completed,
                  "failed": batch.failed},
        )  # fmt: skip


def _latched() -> Iterator[Event]:
    for row in PoolState.objects.filter(latched_at__isnull=False):
        assert row.latched_at is not None
        yield Event(
            f"latched:{row.pk}:{row.latched_at.timestamp():.0f}", Kind.MODEL_LATCHED, _fleet(row.pk),
            f"{row.pk} does not start",
            f"{row.pk} failed to start several times and is not started again until an operator relaunches it. The "
            f"page Fleet shows the reason.",
            data={"pool": row.pk},
        )  # fmt: skip


def _silent(now: datetime) -> Iterator[Event]:
    """Yield an event for each way that has fallen silent. One that never answered has no time to name, and is told by
    the page on which it is set up."""
    several = WayState.objects.count() > 1
    for row in WayState.objects.exclude(error="").filter(answered_at__lt=now - SILENT_FOR):
        assert row.answered_at is not None
        who = f"Slurm of {row.cluster_id}" + (f" (access {row.name})" if row.name else "")
        key = f"{row.cluster_id}/{row.name}" if row.name else row.cluster_id
        held = "nothing is launched through this access" if several else "nothing is launched"
        yield Event(
            f"silent:{key}:{row.answered_at.timestamp():.0f}", Kind.SLURM_SILENT, "/fleet/",
            f"{who} does not answer",
            f"{who} last answered at {row.answered_at:%H:%M} UTC. Running requests continue; {held}. {row.error}"[:1000],
            data={"cluster": row.cluster_id, "access": row.name},
        )  # fmt: skip


def _old(config: Config, now: datetime) -> Iterator[Event]:
    """Yield an event for each pool whose queue is old, once an hour."""
    if not config.queue_old_min:
        return
    with connection.cursor() as cur:
        waiting = lines.oldest(plain(cur))
    for pool, oldest in waiting.items():
        waits_s = (now - oldest).total_seconds()
        if waits_s > config.queue_old_min * 60:
            yield Event(
                f"queue:{pool}:{now:%Y%m%d%H}", Kind.QUEUE_OLD, _fleet(pool),
                f"Requests for {pool} have waited for {span(waits_s)}",
                f"The oldest request for {pool} has waited for {span(waits_s)}. The page Fleet shows the reason.",
                data={"pool": pool, "oldest_s": round(waits_s)},
            )  # fmt: skip


def _tokens(now: datetime) -> Iterator[Event]:
    for days, least_life in TOKEN_DAYS:
        soon = ApiToken.objects.filter(
            revoked_at=None, expires_at__gt=now, expires_at__lt=now + timedelta(days=days)
        ).select_related("project")
        for token in soon:
            closer = days > 1 and token.expires_at < now + timedelta(days=1)
            if closer or token.expires_at - token.created_at < least_life:
                continue
            yield Event(
                f"token:{token.pk}:{days}", Kind.TOKEN_EXPIRING, "/tokens/", f"Your token “{token.name}” expires soon",
                f"Your token “{token.name}” (berth_{token.prefix}_…) for {token.project} expires on "
                f"{token.expires_at:%Y-%m-%d %H:%M} UTC. Create a new one on the page Tokens.",
                user=token.user_id, project=token.project_id,
                data={"token": token.prefix, "expires_at": token.expires_at.isoformat()},
            )  # fmt: skip


def _results(config: Config, now: datetime) -> Iterator[Event]:
    """Yield the results of background requests that are deleted within a day, one event per person and day."""
    gone_at = now - timedelta(days=config.result_keep_days)
    rows = Request.objects.filter(
        lane=Lane.ASYNC, state=RequestState.DONE, ended_at__gt=gone_at, ended_at__lt=gone_at + timedelta(days=1),
        payload__result__isnull=False,
    )  # fmt: skip
    for user, number in rows.values_list("user_id").annotate(number=Count("pk")):
        page = "/requests/?lane=async&state=done"
        yield _going("results", page, user, number, "result of a request", "results of requests", now)


def _files(now: datetime) -> Iterator[Event]:
    rows = File.objects.filter(
        erased_at=None, purpose="batch_output", expires_at__gt=now, expires_at__lt=now + timedelta(days=1)
    )
    for user, number in rows.values_list("user_id").annotate(number=Count("pk")):
        words = "file with a batch's answers", "files with batches' answers"
        yield _going("files", "/batches/", user, number, *words, now)


def _fleet(pool: str) -> str:
    return f"/fleet/?find={quote(pool, safe='')}"


def _going(what: str, page: str, user: int, number: int, one: str, many: str, now: datetime) -> Event:
    day = now.astimezone(UTC).date()
    amount, goes, them = (f"1 {one}", "is", "it") if number == 1 else (f"{number} {many}", "are", "them")
    return Event(
        f"{what}:{user}:{day}", Kind.RESULT_EXPIRING, page, f"{amount} {goes} deleted within a day",
        f"{amount} of yours {goes} deleted within a day. Fetch {them} if you still need {them}.",
        user=user, data={"what": what, "number": number},
    )  # fmt: skip
