"""A batch that validates → its requests, all queued at once, or its errors. Callable by itself: `import_batch`.

Separate from what comes after. The lines are judged first, without a transaction; then one COPY queues them and
moves the batch in the same commit. So there is no half-imported batch: an import that is killed is done again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from psycopg2.extensions import cursor as Cursor

from portal.accounts.models import Project
from portal.admission import quotas, reservations
from portal.admission.quotas import Subjects
from portal.batches import transitions
from portal.batches.contents import Contents
from portal.batches.lines import Good, Judged, Rules, judge
from portal.batches.values import NewLine
from portal.catalog.entries import ModelEntry, read_models
from portal.config import Config
from portal.db.transaction import moving
from portal.ledger.models import Batch
from portal.ledger.states import Lane, RequestState
from portal.policy.limits import WORDS
from portal.redis import hints

logger = logging.getLogger(__name__)

LANE = Lane.BATCH


def import_batch(id_: UUID, settings: Config, now: float) -> bool:
    """validating → in_progress | failed. False when it was not validating any more."""
    batch = Batch.objects.get(id=id_)
    models = _models(batch.project_id)
    judged = _judge(batch, settings, models)
    if not judged.errors:
        judged = Judged(judged.lines, _too_many(batch, judged.lines))
    at = datetime.fromtimestamp(now, UTC)
    if judged.errors:
        with moving() as cur:
            return transitions.fail(cur, id_, judged.errors, at)
    pools = {models[line.model].pool for line in judged.lines}
    parked = any(quotas.refills(who) for who in _subjects(batch, judged.lines))
    with moving() as cur:
        keys = _places(cur, batch, judged.lines, models)
        state = RequestState.PARKED if parked else RequestState.QUEUED
        began = transitions.begin(cur, id_, _placed(judged.lines, models, keys), at, state)
        if not began:
            transaction.set_rollback(True)
    if began:
        logger.info("batch %s: %d lines %s", id_, len(judged.lines), state)
        for pool in () if parked else sorted(pools):
            hints.rows_waiting(pool)
    return began


def _judge(batch: Batch, settings: Config, models: dict[str, ModelEntry]) -> Judged:
    rules = Rules(batch.endpoint, settings.max_batch_lines, settings.max_body_bytes, models.__contains__)
    try:
        return judge(Contents(settings.files_dir).path(batch.input_file_id), rules)
    except OSError as error:
        logger.error("batch %s: its input cannot be read: %s", batch.pk, error)
        said = {
            "line": None,
            "code": "input_lost",
            "message": "The input file cannot be read.",
            "param": None,
        }
        return Judged([], [said])


def _too_many(batch: Batch, lines: list[Good]) -> list[dict[str, Any]]:
    """Why they may not all wait in line. Then none does: nobody could say when there is room, and the file stays."""
    models = Counter(line.model for line in lines)
    for who in _subjects(batch, lines):
        want = quotas.crowded(who, len(lines), models[who.model])
        if want is not None:
            message = (
                f"With these {len(lines)} lines more than {want.limit} {WORDS[want.kind]} of this {want.level} would "
                "wait. Create the batch again when fewer wait, or split the file."
            )
            return [{"line": None, "code": "rate_limit_exceeded", "message": message, "param": None}]
    return []


def _models(project_id: int) -> dict[str, ModelEntry]:
    """Those that the project may use, by name."""
    with moving() as cur:
        return {name: entry for name, entry in read_models(cur).items() if entry.open_to(project_id)}


def _subjects(batch: Batch, lines: list[Good]) -> list[Subjects]:
    """Whom its lines are counted against. Where there is a rate, all begin parked, and the control loop lets them
    go on as it refills."""
    return [
        Subjects(batch.token_id, batch.user_id, batch.project_id, model)
        for model in sorted({line.model for line in lines})
    ]


def _places(
    cur: Cursor, batch: Batch, lines: list[Good], models: dict[str, ModelEntry]
) -> dict[str, Iterator[float]]:
    """pool → order keys: one reservation per pool, and within it the file's order."""
    weight = Project.objects.values_list("weight", flat=True).get(id=batch.project_id)
    shares: dict[str, list[float]] = {}
    for line in lines:
        shares.setdefault(models[line.model].pool, []).append(line.cost / weight)
    return {
        pool: iter(reservations.reserve(cur, pool, LANE, batch.project_id, costs))
        for pool, costs in shares.items()
    }


def _placed(
    lines: list[Good], models: dict[str, ModelEntry], keys: dict[str, Iterator[float]]
) -> Iterator[NewLine]:
    for line in lines:
        pool = models[line.model].pool
        yield NewLine(
            line.number, line.offset, line.length, line.custom_id, pool, line.model, next(keys[pool])
        )
