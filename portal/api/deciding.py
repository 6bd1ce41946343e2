"""What somebody wants to know of the decisions → the rows, newest first: by model, pilot, kind and time.

Shared by API, page and command line, so that a link from one reads the same in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.utils.dateparse import parse_date, parse_datetime

from portal.api import targets
from portal.fleet.models import Command, Decision
from portal.fleet.times import seconds_of

# What the policies decide; what is done about unknown jobs and bad nodes; what befell the fleet; and the commands
# that move nothing by themselves.
KINDS = (
    "launch", "place", "wake_replica", "drain_replica", "stage", "drain_pilot", "cancel", "hold", "hold_profile",
    "cancel_unknown", "exclude_node", "readmit_node", "resubmit", "ended", "silent", "heard_again", "slurm_silent",
    "slurm_answers", *(Command.Kind(k).value for k in (
        "adopt", "reject", "pin", "unpin", "wake", "pause", "resume", "relaunch", "test_launch")),
)  # fmt: skip
FILTERS = {
    "model": "Name of a model or its pool.",
    "pilot": "Id, job id or job name of a pilot.",
    "kind": "What was decided, e.g. launch.",
    "since": "2026-11-21, 2026-11-21T09:00 (UTC), or a time ago such as 2h.",
    "until": "As since.",
}


def decisions(asked: Mapping[str, str], now: datetime) -> QuerySet[Decision]:
    """Raises ValidationError that names the parameter."""
    rows = Decision.objects.order_by("-id")
    # The older name of this parameter is kept for programs.
    if word := asked.get("model") or asked.get("pool"):
        rows = rows.filter(pool=_pool(word))
    if word := asked.get("pilot"):
        rows = rows.filter(pilot=_pilot(word))
    if kind := asked.get("kind"):
        if kind not in KINDS:
            raise ValidationError({"kind": f"kind is one of: {', '.join(KINDS)}."})
        rows = rows.filter(kind=kind)
    if word := asked.get("since"):
        rows = rows.filter(at__gte=_moment("since", word, now))
    if word := asked.get("until"):
        rows = rows.filter(at__lte=_moment("until", word, now))
    return rows


def _pool(word: str) -> str:
    """Also one that has left the catalog since."""
    if Decision.objects.filter(pool=word).exists():
        return word
    try:
        return targets.pool(word).name
    except ValidationError as error:
        raise ValidationError({"model": error.messages}) from None


def _pilot(word: str) -> UUID:
    try:
        return targets.pilot(word).pk
    except ValidationError as error:
        raise ValidationError({"pilot": error.messages}) from None


def _moment(param: str, word: str, now: datetime) -> datetime:
    at = _ago(word, now) or _date(word)
    if at is None:
        raise ValidationError({param: f"Not a time: write {FILTERS['since']}"})
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _ago(word: str, now: datetime) -> datetime | None:
    try:
        return now - timedelta(seconds=seconds_of(word))
    except (ValueError, OverflowError):
        return None


def _date(word: str) -> datetime | None:
    try:
        day = parse_date(word)
        return datetime.combine(day, time()) if day is not None else parse_datetime(word)
    except ValueError:
        return None
