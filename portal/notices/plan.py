"""Events → deliveries: one per event, recipient and way. Written as often as one likes, made once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Q

from portal.accounts.models import User
from portal.config import Config
from portal.notices.events import Event
from portal.notices.models import FOR_OPERATORS, Delivery, Kind, OptOut, Webhook, Wish


def plan(events: Iterable[Event], config: Config, now: datetime) -> int:
    """Store the deliveries of the events, and return how many are new."""
    told = list(events)
    if not told:
        return 0
    operators = (
        Q(is_operator=True) | Q(is_superuser=True)
        if any(e.kind in FOR_OPERATORS for e in told)
        else Q(pk=None)
    )
    mine = Q(pk__in={event.user for event in told if event.user is not None})
    people = {user.pk: user for user in User.objects.filter(mine | operators, is_active=True)}
    silent = set(OptOut.objects.filter(user__in=people).values_list("user_id", "kind"))
    hooks = list(
        Webhook.objects.filter(
            Q(user__in=people) | Q(project__in={e.project for e in told if e.project is not None})
        )
    )
    rows = []
    for event in told:
        whose = [people[event.user]] if event.user in people else []
        if event.kind in FOR_OPERATORS:
            whose = [user for user in people.values() if user.operates]
        for user in whose:
            if config.mail.host and user.email and (user.pk, event.kind) not in silent:
                rows.append(_delivery(event, f"mail:{user.pk}", config, now, user=user))
        keys = {user.pk for user in whose}
        for hook in hooks:
            of_project = event.project is not None and hook.project_id == event.project
            if hook.user_id in keys or of_project:
                rows.append(_delivery(event, f"webhook:{hook.pk}", config, now, webhook=hook))
    known = set(Delivery.objects.filter(key__in=[row.key for row in rows]).values_list("key", flat=True))
    new = [row for row in rows if row.key not in known]
    Delivery.objects.bulk_create(new, ignore_conflicts=True)
    # Told, or there is no way to tell it.
    done = [int(event.name.partition(":")[2]) for event in told if event.kind == Kind.MODEL_READY]
    Wish.objects.filter(pk__in=done).delete()
    return len(new)


def _delivery(
    event: Event,
    way: str,
    config: Config,
    now: datetime,
    user: User | None = None,
    webhook: Webhook | None = None,
) -> Delivery:
    return Delivery(
        key=f"{event.name}:{way}", kind=event.kind, user=user, webhook=webhook, subject=event.subject[:200],
        text=event.text, data=event.data | {"page": config.site + event.page}, next_at=now, created_at=now,
    )  # fmt: skip
