"""A batch that validates → its requests, all queued at once, or its errors. Callable by itself: `import_batch`.

Separate from what comes after. The lines are judged first, without a transaction; then one COPY queues them and
moves the batch in the same commit. So there is no half-imported batch: an import that is killed is done again.

Whether a line is accepted is portal.acceptance's rule, as for every request that nobody waits for. A model that it
refuses is that line's error; too many that would wait is the whole batch's, and then none does: nobody could say when
there is room, and the file stays. Where there is a rate, all lines begin parked: how much room it has for them can only
be said one by one, as the control loop lets them go on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from psycopg2.extensions import cursor as Cursor

from portal.acceptance.rule import Crowd, Facts, Verdict, priority, share, verdict
from portal.acceptance.submission import crowds
from portal.accounts.callers import Principal, read_principal
from portal.admission import quotas, reservations
from portal.admission.subjects import Subjects
from portal.batches import transitions
from portal.batches.contents import Contents
from portal.batches.lines import GoodLine, Judgement, Rules, judge
from portal.batches.values import NewLine
from portal.catalog.entries import ModelEntry, read_models
from portal.config import Config
from portal.db.transaction import moving
from portal.errors import ApiError
from portal.ledger import queue_limit
from portal.ledger.models import Batch
from portal.ledger.states import Lane, RequestState
from portal.policy.limits import RATES, WORDS, wants
from portal.redis import hints

logger = logging.getLogger(__name__)


def import_batch(id_: UUID, settings: Config, now: float) -> bool:
    """Move the batch from validating to in_progress or failed. False when it was not validating any more."""
    batch = Batch.objects.get(id=id_)
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        models = read_models(cur)
        principal = read_principal(cur, batch.token_id, batch.user_id, batch.project_id)
    judged = _judge(batch, settings, models)
    if judged.errors:
        with moving() as cur:
            return transitions.fail(cur, id_, judged.errors, at)
    with moving() as cur:
        said = _verdict(cur, principal, judged.lines, models)
        if said.crowd is not None:
            return transitions.fail(cur, id_, [_too_many(said.crowd)], at)
        state, level = said.accepted(), priority(None, principal.priority)
        keys = _places(cur, principal, judged.lines, models, level)
        began = transitions.begin(cur, id_, _placed(judged.lines, models, keys), at, state, level)
        if not began:
            transaction.set_rollback(True)
    if began:
        logger.info("batch %s: %d lines %s", id_, len(judged.lines), state)
        for pool in sorted(keys) if state == RequestState.QUEUED else ():
            hints.rows_waiting(pool)
    return began


def _judge(batch: Batch, settings: Config, models: Mapping[str, ModelEntry]) -> Judgement:
    def refusal(name: str) -> ApiError | None:
        return verdict(Facts(name, models.get(name), batch.project_id)).error

    rules = Rules(batch.endpoint, settings.max_batch_lines, settings.max_body_bytes, refusal)
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
        return Judgement([], [said])


def _verdict(
    cur: Cursor, principal: Principal, lines: Sequence[GoodLine], models: Mapping[str, ModelEntry]
) -> Verdict:
    """Judge all lines as one: refused as soon as those of one model are, else parked as soon as those of one are.

    Nobody else adds a request under the same limits until the caller commits."""
    by_model = Counter(line.model for line in lines)
    subjects = {name: Subjects(principal.token, principal.user, principal.project, name) for name in by_model}
    limits = quotas.concerning_each(cur, subjects.values())
    waits = {name: wants(limits[of], ("queued",), 0) for name, of in subjects.items()}
    queue_limit.lock(cur, [want for some in waits.values() for want in some])
    said = []
    for name in sorted(by_model):
        facts = Facts(
            name,
            models.get(name),
            principal.project,
            crowds(cur, waits[name], len(lines), by_model[name]),
            "unknown" if wants(limits[subjects[name]], RATES, 0) else "allow",
        )
        said.append(verdict(facts))
    first = (
        one
        for state in (None, RequestState.PARKED, RequestState.QUEUED)
        for one in said
        if one.state == state
    )
    return next(first)


def _too_many(crowd: Crowd) -> dict[str, Any]:
    limit = crowd.limit
    message = (
        f"With these {crowd.coming} lines more than {limit.limit} {WORDS[limit.kind]} of this {limit.level} would "
        "wait. Create the batch again when fewer wait, or split the file."
    )
    return {"line": None, "code": "rate_limit_exceeded", "message": message, "param": None}


def _places(
    cur: Cursor, principal: Principal, lines: Sequence[GoodLine], models: Mapping[str, ModelEntry], level: int
) -> dict[str, Iterator[float]]:
    """Return the order keys by pool: one reservation per pool, and within it the file's order."""
    shares: dict[str, list[float]] = {}
    for line in lines:
        shares.setdefault(models[line.model].pool, []).append(share(line.cost, principal.weight))
    return {
        pool: iter(reservations.reserve(cur, pool, Lane.BATCH, principal.project, costs, level))
        for pool, costs in shares.items()
    }


def _placed(
    lines: Sequence[GoodLine], models: Mapping[str, ModelEntry], keys: Mapping[str, Iterator[float]]
) -> Iterator[NewLine]:
    for line in lines:
        pool = models[line.model].pool
        yield NewLine(
            line.number, line.offset, line.length, line.custom_id, pool, line.model, next(keys[pool])
        )
