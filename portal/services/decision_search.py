"""What somebody wants to know of the decisions → the rows, newest first: by model, pilot, kind and time.

Shared by API, page and command line, so that a link from one reads the same in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import OuterRef, QuerySet, Subquery

from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Decision, Pilot
from portal.services import targets
from portal.services.moments import FORMS, moment

FILTERS = {
    "model": "Name of a model or its pool.",
    "pilot": "Id, job id or job name of a pilot.",
    "kind": "What was decided, e.g. launch.",
    "since": FORMS,
    "until": "As since.",
}


def decisions(asked: Mapping[str, str], now: datetime) -> QuerySet[Decision]:
    """Search the decisions. Raise ValidationError that names the parameter."""
    rows = Decision.objects.order_by("-id")
    # The older name of this parameter is kept for programs.
    if word := asked.get("model") or asked.get("pool"):
        rows = rows.filter(pool=_pool(word))
    if word := asked.get("pilot"):
        rows = rows.filter(pilot=_pilot(word))
    if kind := asked.get("kind"):
        if kind not in set(DecisionKind):
            raise ValidationError({"kind": f"kind must be one of: {', '.join(DecisionKind)}."})
        rows = rows.filter(kind=kind)
    if word := asked.get("since"):
        rows = rows.filter(at__gte=moment("since", word, now))
    if word := asked.get("until"):
        rows = rows.filter(at__lte=moment("until", word, now))
    return rows


def with_jobs(rows: QuerySet[Decision]) -> QuerySet[Decision]:
    """Give each row `job`, the number of its pilot's Slurm job, by which people know a pilot; None before
    it has one."""
    return rows.annotate(job=Subquery(Pilot.objects.filter(pk=OuterRef("pilot")).values("job_id")[:1]))


def _pool(word: str) -> str:
    """Return the name of a pool, also of one that has left the catalog since."""
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
