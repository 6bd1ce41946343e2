"""What somebody wants to know of the requests → the rows, newest first: by model, state, project, lane and time.

Whose they are comes first: one's own, those of the projects that one manages, or, for operators, everybody's. Rows are
metadata: payloads and results lie in another table, which nothing here reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet

from portal.accounts.models import Project, User
from portal.ledger.models import Request
from portal.ledger.states import Lane, RequestState
from portal.services.access import managed
from portal.services.moments import moment

FILTERS = ("whose", "model", "state", "project", "lane", "since", "until")
# An index leads to whose they are and when they came, none to the rest: so many rows are looked at for one page.
MOST_LOOKED_AT = 50_000
MINE, MANAGED, EVERYBODY = "mine", "managed", "everybody"
PAGE_ROWS = 50


@dataclass(frozen=True, slots=True)
class RequestSearch:
    """One search: `rows` are whose they are and when they came; `other` is what they are to be beside
    that."""

    rows: QuerySet[Request]
    other: Q


@dataclass(frozen=True, slots=True)
class RequestPage:
    """One page of a search.

    `older` is where the next page begins; empty on the last one. `looked_to`: no older row was looked at yet.
    """

    rows: list[Request]
    older: str
    looked_to: datetime | None = None


def whose(user: User) -> list[str]:
    """List whose requests this person may look through; the first is the usual one."""
    choices = [MINE]
    if managed(user):
        choices.append(MANAGED)
    if user.operates:
        choices.append(EVERYBODY)
    return choices


def requests(asked: Mapping[str, str], user: User, now: datetime) -> RequestSearch:
    """Read a search from its parameters. Raise ValidationError that names the parameter."""
    rows = _of(asked.get("whose") or MINE, user).order_by("-accepted_at", "-id")
    other = Q()
    if word := asked.get("model"):
        other &= Q(model=word)
    if word := asked.get("state"):
        other &= Q(state=_one_of("state", word, [*RequestState]))
    if word := asked.get("lane"):
        other &= Q(lane=_one_of("lane", word, [*Lane]))
    if word := asked.get("project"):
        # One that does not exist and one that is none of the caller's business look the same: empty.
        other &= Q(project_id__in=Project.objects.filter(slug=word).values_list("pk", flat=True)[:1])
    if word := asked.get("since"):
        rows = rows.filter(accepted_at__gte=moment("since", word, now))
    if word := asked.get("until"):
        rows = rows.filter(accepted_at__lte=moment("until", word, now))
    return RequestSearch(rows, other)


def page(asked: RequestSearch, before: str) -> RequestPage:
    """Return the rows after the one that `before` names, which need not exist any more. Raise
    ValidationError."""
    rows = asked.rows
    if before:
        at, id_ = _place(before)
        rows = rows.filter(accepted_at__lte=at).exclude(accepted_at=at, id__gte=id_)
    last_looked_at = edge(rows) if asked.other else None
    if last_looked_at is not None:
        rows = rows.filter(accepted_at__gte=last_looked_at)
    found = list(rows.filter(asked.other)[: PAGE_ROWS + 1])
    if len(found) > PAGE_ROWS:
        last = found[PAGE_ROWS - 1]
        return RequestPage(found[:PAGE_ROWS], f"{last.accepted_at.isoformat()}_{last.pk}")
    older = f"{last_looked_at.isoformat()}_{UUID(int=0)}" if last_looked_at is not None else ""
    return RequestPage(found, older, last_looked_at)


def edge(rows: QuerySet[Request]) -> datetime | None:
    """Return when the last of those came that are looked at; None where there are no more than that."""
    # By time alone, the index answers without a look at any row.
    times = rows.order_by("-accepted_at").values_list("accepted_at", flat=True)
    times = times[MOST_LOOKED_AT : MOST_LOOKED_AT + 1]
    return next(iter(times), None)


def _of(word: str, user: User) -> QuerySet[Request]:
    _one_of("whose", word, whose(user))
    if word == EVERYBODY:
        return Request.objects.all()
    if word == MANAGED:
        return Request.objects.filter(project_id__in=managed(user))
    return Request.objects.filter(user_id=user.pk)


def _one_of(param: str, word: str, known: Collection[str]) -> str:
    if word not in known:
        raise ValidationError({param: f"{param} must be one of: {', '.join(known)}."})
    return word


def _place(before: str) -> tuple[datetime, UUID]:
    at, _, id_ = before.rpartition("_")
    try:
        place = datetime.fromisoformat(at), UUID(id_)
    except ValueError:
        raise ValidationError({"before": "Invalid page: start again at the first one."}) from None
    if place[0].tzinfo is None:
        raise ValidationError({"before": "Invalid page: start again at the first one."})
    return place
