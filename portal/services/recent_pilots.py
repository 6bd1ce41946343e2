"""The rows of pilots → those that a look at the fleet shows: live ones, and those that ended a while ago."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import F, Prefetch, Q, QuerySet

from portal.fleet.models import Pilot, Replica
from portal.fleet.states import PilotState

ENDED_SHOWN_FOR = timedelta(hours=1)


def recent_pilots(now: datetime) -> QuerySet[Pilot]:
    """Return live pilots, then those that ended a while ago, newest first, replicas and profile fetched
    along."""
    recent = ~Q(state=PilotState.ENDED) | Q(ended_at__gt=now - ENDED_SHOWN_FOR)
    replicas = Prefetch("replicas", Replica.objects.order_by("wanted_at"))
    return (
        Pilot.objects.filter(recent)
        .select_related("profile")
        .prefetch_related(replicas)
        .order_by(F("ended_at").desc(nulls_first=True), "-planned_at")
    )
