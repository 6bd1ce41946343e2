"""Models → what people see of each: a word, an estimate and a reason. The same reading as the gateway's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import connection

from portal.catalog.models import Model
from portal.fleet.phase import Phase
from portal.gateway.catalog import read_phases
from portal.postgres import plain


@dataclass(frozen=True, slots=True)
class Shown:
    model: Model
    phase: Phase


def residency(models: Iterable[Model]) -> list[Shown]:
    """Each model with the phase of its pool."""
    shown = list(models)
    with connection.cursor() as cur:
        phases = read_phases(plain(cur), time.time(), sorted({model.pool_id for model in shown}))
    return [Shown(model, phases[model.pool_id].named(model.name)) for model in shown]
