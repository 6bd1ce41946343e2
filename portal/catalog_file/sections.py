"""Which tables stand in the file, under which keys, and how a row becomes plain values and back.

A row is named by its key and refers to others by theirs, so that a file means the same in another installation.
What the control loop writes (pauses, measurements) has no place here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet

from portal.accounts.models import ApiToken, Project, Quota, User
from portal.catalog.models import Access, Environment, Model, Pool, Profile
from portal.fleet.models import Fit

ANY = "any"  # how the file writes the GPU type that profiles leave empty
FITS = "fits"
Row = Any


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the file, and its table. `key`: the lookup that names a row. `fields`: in the order in which they
    are written."""

    path: tuple[str, ...]
    word: str
    table: type[models.Model]
    key: str
    fields: tuple[str, ...]
    level: str = ""  # of quotas

    def rows(self) -> dict[str, Row]:
        """Return the rows by name, in the section's order."""
        found: QuerySet[Any] = self.table._default_manager.order_by(self.key)
        if self.level:
            found = found.filter(level=self.level).select_related(*self.key.split("__")[:-1])
        links = [name for name in self.fields if name != FITS and self._field(name).is_relation]
        many = [name for name in links if self._field(name).many_to_many]
        many += [FITS] if FITS in self.fields else []
        found = found.select_related(*(name for name in links if name not in many)).prefetch_related(*many)
        return {str(_follow(row, self.key)): row for row in found}

    def new(self, name: str) -> Row:
        """Return a new row. Raise ValidationError when it is of somebody who does not exist."""
        if not self.level:
            return self.table(**{self.key: name})
        subject, _, key = self.key.partition("__")
        of = _named(SUBJECTS[subject], key or "name", name)
        return self.table(level=self.level, **{subject: of if key else name})

    def required(self) -> list[str]:
        """Return the references without which there is no row. What else a row needs, `full_clean` says."""
        links = [name for name in self.fields if name != FITS and self._field(name).is_relation]
        return [name for name in links if not (self._field(name).null or self._field(name).blank)]

    def plain(self, row: Row) -> dict[str, Any]:
        """Return the row's fields as the file writes them."""
        return {name: self._plain(row, name) for name in self.fields}

    def _plain(self, row: Row, name: str) -> Any:
        if name == FITS:
            fits = row.fits.all() if row._state.adding is False else ()
            return {fit.gpu_type or ANY: fit.fits for fit in sorted(fits, key=lambda fit: fit.gpu_type)}
        field = self._field(name)
        if field.many_to_many:
            return sorted(str(other) for other in getattr(row, name).all()) if not row._state.adding else []
        if field.is_relation:
            return None if getattr(row, field.attname) is None else str(getattr(row, name))
        return getattr(row, name)

    def read(self, name: str, value: Any) -> Any:
        """Return a value of the file, checked for its kind. Raise ValidationError."""
        if name == FITS:
            return _fits(value)
        field = self._field(name)
        if field.many_to_many:
            return _names(value, least=0 if field.blank else 1)
        if value is None:
            if field.null:
                return None
            raise ValidationError("This cannot be empty.")
        if field.is_relation:
            return _text(value)
        return _KINDS.get(field.get_internal_type(), _number)(value)

    def set(self, row: Row, name: str, value: Any) -> None:
        """Set a single value of the row, not yet saved. Raise ValidationError."""
        field = self._field(name)
        if field.is_relation and value is not None:
            value = _named(field.related_model, _key_of(field.related_model), value)
        setattr(row, name, value)

    def link(self, row: Row, name: str, value: Any) -> None:
        """Set what stands in rows of its own, once the row is saved. Raise ValidationError."""
        if name == FITS:
            for gpu_type, fits in value.items():
                Fit.objects.update_or_create(
                    pool=row, gpu_type="" if gpu_type == ANY else gpu_type, defaults={"fits": fits}
                )
            return
        table = self._field(name).related_model
        getattr(row, name).set([_named(table, _key_of(table), one) for one in value])

    def is_linked(self, name: str) -> bool:
        return name == FITS or bool(self._field(name).many_to_many)

    def _field(self, name: str) -> Any:
        return self.table._meta.get_field(name)


LIMITS = ("requests_per_min", "tokens_per_min", "concurrent", "queued")
SUBJECTS: dict[str, type[models.Model]] = {
    "project": Project,
    "user": User,
    "token": ApiToken,
    "model": Model,
}
# Later ones refer to earlier ones.
SECTIONS = (
    Section(("projects",), "project", Project, "slug", ("name", "weight", "max_gpus", "is_active", "model_roots")),
    Section(
        ("environments",), "environment", Environment, "name",
        ("engine", "python", "engine_version", "gpu_types", "prologue", "image", "image_gpu", "image_binds"),
    ),
    Section(
        ("accesses",), "access", Access, "name",
        (
            "kind", "cluster", "submit_prefix", "address", "conf", "user", "token_file", "token_command", "python",
            "spool", "agent_python", "agent_home",
        ),
    ),
    Section(
        ("profiles",), "profile", Profile, "name",
        (
            "enabled", "access", "cluster", "partition", "account", "qos", "constraint", "reservation", "gpu_type",
            "gpus", "nodes", "cpus", "mem_mb", "gpu_request", "gpu_type_asked", "mem_request", "licenses", "exclusive",
            "nice", "wckey", "extra", "walltime_min", "walltime_least_min", "max_pilots", "preemptible", "cost", "charge",
            "project", "link", "prologue", "door_address", "door_ports", "portal_url_from_nodes", "scratch",
            "agent_python",
        ),
    ),
    Section(
        ("pools",), "pool", Pool, "name",
        (
            "environment", "profiles", "gpus", "nodes", "mem_mb", "cap", "min_replicas", "max_replicas", "keep_alive_s",
            "load_limit_s", "drain_limit_s", "load_estimate_s", "sleep_level", "asleep_mem_mb", "args", FITS,
        ),
    ),
    Section(
        ("models",), "model", Model, "name",
        (
            "kind", "pool", "path", "revision", "context_tokens", "enabled", "is_public", "projects", "registered_for",
            "description",
        ),
    ),
    *(
        Section(("quotas", level), f"quota of {level}", Quota, key, LIMITS, level)
        for level, key in (
            ("project", "project__slug"), ("user", "user__username"), ("token", "token__prefix"), ("model", "model"),
        )
    ),
)  # fmt: skip


def _key_of(table: Any) -> str:
    return next(section.key for section in SECTIONS if section.table is table)


def _follow(row: Any, key: str) -> Any:
    for step in key.split("__"):
        row = getattr(row, step)
    return row


def _named(table: Any, key: str, name: str) -> Any:
    found = table._default_manager.filter(**{key: name}).first()
    if found is None:
        raise ValidationError(f"No {table._meta.verbose_name} is named '{name}'.")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"Write text; {_shown(value)} is not. In quotes it is.")
    if "\0" in value:
        raise ValidationError("A text holds no NUL character.")
    return value


def _yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(f"Write true or false, not {_shown(value)}.")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValidationError(f"Write a whole number, not {_shown(value)}.")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValidationError(f"Write a number, not {_shown(value)}.")
    return float(value)


def _json(value: Any) -> Any:
    """Check for what JSON can hold: YAML knows more, such as dates."""
    if isinstance(value, dict):
        return {_text(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner) for inner in value]
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, bool | int):
        return value
    return _text(value)


def _names(value: Any, least: int) -> list[str]:
    if not isinstance(value, list):
        raise ValidationError(f"Write a list of names, not {_shown(value)}.")
    if len(value) < least:
        raise ValidationError("Write at least one name.")
    return sorted({_text(one) for one in value})


def _fits(value: Any) -> dict[str, bool]:
    if not isinstance(value, dict):
        raise ValidationError("Write GPU types with true or false, such as a100: false.")
    return {_text(gpu_type): _yes_no(fits) for gpu_type, fits in sorted(value.items(), key=_first)}


def _first(pair: Iterable[Any]) -> str:
    return str(next(iter(pair)))


def _shown(value: Any) -> str:
    return repr(value)[:60]


_KINDS: dict[str, Any] = {
    "CharField": _text, "TextField": _text, "SlugField": _text, "JSONField": _json, "BooleanField": _yes_no,
    "PositiveIntegerField": _whole, "PositiveSmallIntegerField": _whole,
}  # fmt: skip
