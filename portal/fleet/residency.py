"""Models → what people see of each: a word, an estimate and a reason. The same reading as the gateway's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from django.db import connection

from portal.catalog.models import Model
from portal.db.connections import plain
from portal.fleet.phase import Phase, Residency
from portal.fleet.phases import read_phases

_SOONEST: tuple[Residency, ...] = ("ready", "starting", "not_loaded", "unavailable")


class Phased(Protocol):
    """The shape of whatever is shown of a model together with its phase."""

    @property
    def phase(self) -> Phase: ...


P = TypeVar("P", bound=Phased)


@dataclass(frozen=True, slots=True)
class Shown:
    model: Model
    phase: Phase


def residency(models: Iterable[Model]) -> list[Shown]:
    """Return each model with the phase of its pool."""
    shown = list(models)
    with connection.cursor() as cur:
        phases = read_phases(plain(cur), time.time(), sorted({model.pool_id for model in shown}))
    return [Shown(model, phases[model.pool_id].named(model.name)) for model in shown]


def soonest(shown: Iterable[P]) -> P | None:
    """Return the first of those that answer soonest: at once, else the one that can be started; None
    without any."""
    return min(shown, key=lambda one: _SOONEST.index(one.phase.residency), default=None)
