"""A row of the catalog → what needs it, in words, or "". What is needed is never pruned: it can be disabled instead."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from portal.accounts.models import ApiToken, Membership, Project
from portal.catalog.models import Access, Environment, Model, Pool, Profile
from portal.fleet.models import Candidate, Pilot, Replica
from portal.fleet.states import REPLICA_ENDED
from portal.ledger.models import Request
from portal.ledger.states import RequestState

_WAITS = (RequestState.QUEUED, RequestState.RUNNING, RequestState.PARKED)


def in_use(row: Any) -> str:
    needs: list[tuple[str, QuerySet[Any]]] = []
    match row:
        case Environment():
            needs = [("pools name it", Pool.objects.filter(environment=row))]
        case Access():
            needs = [("profiles use it", Profile.objects.filter(access=row))]
        case Profile():
            needs = [
                ("pools run under it", Pool.objects.filter(profiles=row)),
                ("jobs of it are on record", Pilot.objects.filter(profile=row)),
                ("models are to be registered under it", Candidate.objects.filter(profile=row)),
            ]
        case Pool():
            needs = [
                ("models belong to it", Model.objects.filter(pool=row)),
                ("replicas of it are on record", Replica.objects.filter(pool=row)),
            ]
        case Model():
            needs = [
                ("requests for it have not ended", Request.objects.filter(model=row.name, state__in=_WAITS)),
                ("it is running", Replica.objects.filter(model=row.name).exclude(state__in=REPLICA_ENDED)),
            ]
        case Project():
            needs = [
                ("it has members", Membership.objects.filter(project=row)),
                ("it has tokens", ApiToken.objects.filter(project=row)),
                ("models are visible to it", Model.objects.filter(projects=row)),
                ("models were registered for it", Model.objects.filter(registered_for=row)),
                ("models are to be registered for it", Candidate.objects.filter(project=row)),
                ("profiles charge it", Profile.objects.filter(project=row)),
                ("requests of it are on record", Request.objects.filter(project_id=row.pk)),
            ]
    return ", ".join(why for why, rows in needs if rows.exists())
