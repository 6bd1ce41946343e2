"""A row that is saved, linked or deleted → a row that says who changed what, old → new. One place for all tables.

It hangs on Django's signals, so a form, a command and a page are alike; what is to be recorded is therefore saved, not
updated by a query. Secrets are never recorded: neither passwords nor the digests of tokens, and of webhooks' addresses
only the host. Nor is what changes by itself, such as the time of a log-in.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model, QuerySet
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from portal.accounts.models import ApiToken, ClaimRule, Membership, Project, Quota, User
from portal.audit.actor import actor
from portal.audit.models import Change
from portal.catalog.models import Access, Environment, Pool, Profile
from portal.catalog.models import Model as ServedModel
from portal.fleet.models import Command
from portal.notices.models import Webhook

WATCHED: tuple[type[Model], ...] = (
    User, Project, Membership, ClaimRule, ApiToken, Quota, Environment, Access, Profile, Pool, ServedModel,
    Command,
    Webhook,
)  # fmt: skip
# Lists in rows of their own: their name on either side.
LINKS: dict[type[Model], tuple[str, str]] = {
    Pool.profiles.through: ("profiles", "pool_set"),
    ServedModel.projects.through: ("projects", "model_set"),
}
SECRET = {"password", "digest"}
# The rest of a webhook's address is, with many services, all that one needs to speak there.
ONLY_HOST = {"url"}
OF_ITSELF = {"id", "last_login", "last_used_at", "created_at", "date_joined"}
# What the control loop does with a command is told by decisions.
ONLY_ADDED = (Command,)
MOST_TEXT = 2000

Values = dict[str, Any]


def watch() -> None:
    """Connect the signals, once, at start."""
    for table in WATCHED:
        name = f"audit-{table._meta.label}"
        pre_save.connect(_before_save, sender=table, dispatch_uid=name)
        post_save.connect(_saved, sender=table, dispatch_uid=name)
        pre_delete.connect(_before_delete, sender=table, dispatch_uid=name)
        post_delete.connect(_deleted, sender=table, dispatch_uid=name)
    for through in LINKS:
        m2m_changed.connect(_linked, sender=through, dispatch_uid=f"audit-{through._meta.label}")


def _before_save(sender: type[Model], instance: Any, raw: bool, **_: Any) -> None:
    known = None if raw or instance.pk is None else _rows(sender).filter(pk=instance.pk).first()
    instance._before = _values(known) if known is not None else None


def _saved(sender: type[Model], instance: Any, created: bool, raw: bool, **_: Any) -> None:
    before: Values | None = instance.__dict__.pop("_before", None)
    if raw or (not created and isinstance(instance, ONLY_ADDED)):
        return
    # As the database has it: a form leaves text where a number is meant.
    after = _values(_rows(sender).get(pk=instance.pk))
    if before is None:
        empty: tuple[Any, ...] = (None, "", [], {})
        fields = {name: (None, value) for name, value in after.items() if value not in empty}
        _changed(instance, _masked(fields), Change.Action.ADDED)
        return
    fields = {name: (before[name], value) for name, value in after.items() if before[name] != value}
    if fields:
        _changed(instance, _masked(fields))


def _before_delete(sender: type[Model], instance: Any, **_: Any) -> None:
    """Keep the values while what the row refers to can still be named."""
    instance._before = _values(instance)


def _deleted(sender: type[Model], instance: Any, **_: Any) -> None:
    values: Values = instance.__dict__.pop("_before")
    gone = {name: (value, None) for name, value in values.items()}
    _changed(instance, _masked(gone), Change.Action.DELETED)


def _linked(sender: type[Model], instance: Any, action: str, reverse: bool, **_: Any) -> None:
    """Record the lists of a pool or model, before and after."""
    name = LINKS[sender][reverse]
    now = sorted(str(one) for one in getattr(instance, name).all())
    if action.startswith("pre_"):
        instance._linked_before = now
    elif (before := instance.__dict__.pop("_linked_before", now)) != now:
        _changed(instance, {name: (before, now)})


def _changed(row: Model, fields: dict[str, tuple[Any, Any]], action: str = Change.Action.CHANGED) -> None:
    at_work = actor()
    user, who = at_work.who()
    Change.objects.create(
        who=who[:200],
        user_id=user,
        origin=at_work.origin,
        action=action,
        table=row._meta.label,
        key=str(row.pk)[:200],
        name=str(row)[:200],
        fields={name: [_plain(old), _plain(new)] for name, (old, new) in fields.items()},
    )


def _rows(sender: type[Model]) -> QuerySet[Any]:
    """Return the rows with those that they refer to, which are about to be named."""
    links = [field.name for field in sender._meta.concrete_fields if field.is_relation]
    rows = sender._base_manager.all()
    return rows.select_related(*links) if links else rows


def _values(row: Any) -> Values:
    return {
        field.name: _value(row, field) for field in row._meta.concrete_fields if field.name not in OF_ITSELF
    }


def _value(row: Any, field: Any) -> Any:
    """Return the value; of a row that it refers to, the name: numbers mean nothing to who reads it."""
    if field.is_relation:
        return None if getattr(row, field.attname) is None else str(getattr(row, field.name))
    return getattr(row, field.attname)


def _masked(fields: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {name: (_hidden(name, old), _hidden(name, new)) for name, (old, new) in fields.items()}


def _hidden(name: str, value: Any) -> Any:
    if name in SECRET:
        return "(not shown)"
    return f"{urlsplit(value).hostname} (the rest is not shown)" if name in ONLY_HOST and value else value


def _plain(value: Any) -> Any:
    """Return the value as JSON holds it; a long text is cut."""
    if isinstance(value, str) and len(value) > MOST_TEXT:
        return f"{value[:MOST_TEXT]}…"
    return json.loads(json.dumps(value, cls=DjangoJSONEncoder))
