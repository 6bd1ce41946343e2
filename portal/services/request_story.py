"""A request's row with its replica and pilot → what its owner, a manager or an operator is told of it."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

from django.db.models import Q

from gpuworker.wire import JSON
from portal.fleet.models import Replica
from portal.fleet.states import REPLICA_ENDED
from portal.ledger.models import Payload, Request
from portal.ledger.states import Lane, RequestState
from portal.ledger.timeline import Facts, Timeline, timeline
from portal.services.request_wait import why

# Held work goes before async, async before batch.


def brief(row: Request) -> dict[str, Any]:
    error = {"code": row.error_code, "message": row.error_text or ""} if row.error_code else None
    return {
        "id": row.id,
        "state": row.state,
        "lane": row.lane,
        "model": row.model,
        "api": row.api,
        "stream": row.stream,
        "attempt": row.attempt,
        "accepted_at": row.accepted_at,
        "ended_at": row.ended_at,
        "http_status": row.http_status,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "model_revision": row.revision,
        "engine_version": row.engine_version,
        "gpu_type": row.gpu_type,
        "error": error,
    }


def detail(row: Request, *, with_result: bool) -> dict[str, Any]:
    told = timeline_of(row)
    known_pilot = told.job_id is not None or told.node
    place = position(row)
    waits = why(row, place)
    return brief(row) | {
        "position": place,
        "why": dataclasses.asdict(waits) if waits is not None else None,
        "timeline": {
            **told.times,
            "pilot": {"job_id": told.job_id, "node": told.node} if known_pilot else None,
            "queue_s": told.queue_s,
            "slurm_s": told.slurm_s,
            "load_s": told.load_s,
            "engine_s": told.engine_s,
        },
        "result": result(row) if with_result else None,
    }


def position(row: Request) -> int | None:
    """Return a request's place in the queue (1 = next); None when it does not wait."""
    if row.state != RequestState.QUEUED:
        return None
    same_lane = Q(lane=row.lane) & (
        Q(order_key__lt=row.order_key) | Q(order_key=row.order_key, id__lt=row.id)
    )
    lanes = list(Lane)
    ahead = Q(lane__in=lanes[: lanes.index(Lane(row.lane))]) | same_lane
    return Request.objects.filter(ahead, pool=row.pool, state=RequestState.QUEUED).count() + 1


def timeline_of(row: Request) -> Timeline:
    replica = _replica(row)
    facts = Facts(row.accepted_at, row.granted_at, row.first_token_at, row.ended_at, row.slurm_s, row.load_s)
    if replica is not None:
        pilot = replica.pilot
        facts = dataclasses.replace(
            facts,
            job_submitted_at=pilot.submitted_at,
            job_started_at=pilot.job_started_at,
            registered_at=pilot.registered_at,
            engine_started_at=replica.started_at,
            engine_ready_at=replica.hot_at,
            job_id=pilot.job_id,
            node=pilot.node,
        )
    return timeline(facts)


def _replica(row: Request) -> Replica | None:
    """Return the replica that ran it; for a request that waits, the first that is on its way."""
    replicas = Replica.objects.select_related("pilot")
    if row.replica is not None:
        return replicas.filter(id=row.replica).first()
    if row.state != RequestState.QUEUED:
        return None
    return replicas.filter(pool=row.pool).exclude(state__in=REPLICA_ENDED).order_by("wanted_at").first()


def result(row: Request) -> Any:
    """Return what the engine answered, for nobody but its owner; None when it is not kept.

    Whatever is not JSON comes as {"content_type": ..., "base64": ...}.
    """
    kept = Payload.objects.filter(request=row).values_list("result", "result_type").first()
    if kept is None or kept[0] is None:
        return None
    data, content_type = bytes(kept[0]), kept[1]
    if content_type != JSON:
        return {"content_type": content_type, "base64": base64.b64encode(data).decode()}
    text = data.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text
