"""The inference paths of the document: what can be asked of a model, now or for later, and the list of models."""

from __future__ import annotations

from typing import Any

from gpuworker.wire import ENDPOINTS, RESPONSE
from portal.api.document.failures import failures
from portal.api.document.words import (
    Schema,
    answer,
    flag,
    header,
    json_of,
    one_of,
    ref,
    said_in,
    text,
    thing,
    whole,
)
from portal.policy.fairshare import PRIORITIES

SECURITY: list[dict[str, list[str]]] = [{"token": []}]
_ASKING = (
    "body_too_large", "cancelled", "database_unavailable", "detached", "engine_error", "engine_rejected",
    "idempotency_conflict", "in_flight", "internal", "invalid_json", "invalid_parameter", "method_not_allowed",
    "model_not_found", "model_starting", "model_unavailable", "poison", "queue_unavailable", "rate_limit_exceeded",
    "replica_lost", "scope_missing", "shutting_down",
)  # fmt: skip
_HEADERS = [
    said_in("Idempotency-Key", "header", text(
        "The same key and body are one request, answered once and told again for 24 h.", maxLength=255)),
    said_in("Prefer", "header", text(
        "`respond-async`: answered at once with 202 and the address of the result.", enum=["respond-async"])),
    said_in("x-berth-priority", "header", whole(
        "Passes what your project has waiting with a lower one. Without it: your usual one in the project.",
        enum=list(PRIORITIES))),
]  # fmt: skip
_RATES = {
    f"x_ratelimit_{what}_{kind}": header(schema)
    for kind in ("requests", "tokens")
    for what, schema in {
        "limit": whole(f"{kind} per minute of the tightest limit that concerns the request; absent: none."),
        "remaining": whole(),
        "reset": text("Until it is whole again, e.g. 1m30s."),
    }.items()
}
_WAITED = {
    "x_berth_queue_ms": header(whole("Time in line before the first byte.")),
    "x_berth_slurm_ms": header(whole("Of the wait for its model: Slurm's part.")),
    "x_berth_load_ms": header(whole("Of the wait for its model: the load's part.")),
    "idempotent_replayed": header(
        one_of("true", description="The answer was given before, to the same key.")
    ),
}
_LATER = answer(
    "Asked for later (`Prefer: respond-async`).",
    json_of(ref("Accepted")),
    location=header(text("Where its state and, later, its result are.", format="uri-reference"), always=True),
    preference_applied=header(one_of("respond-async"), always=True),
    **_RATES,
)


def _ask(name: str, said: str, streams: bool) -> dict[str, Any]:
    """Describe a path that takes `<name>Request` and answers `<name>Answer`."""
    content = json_of(ref(f"{name}Answer"))
    if streams:
        words = "One server-sent event; comments while it waits carry position, eta_s and reason."
        content["text/event-stream"] = {"schema": thing({"data": text()}, description=words)}
    operation = {
        "operationId": f"create_{name.lower()}",
        "summary": said,
        "tags": ["inference"],
        "security": SECURITY,
        "parameters": _HEADERS,
        "requestBody": {"required": True, "content": json_of(ref(f"{name}Request"))},
        "responses": {
            "200": answer("The engine's answer.", content, **_RATES, **_WAITED),
            "202": _LATER,
            **failures(*_ASKING),
            "4XX": {
                "description": "The engine's own refusal: `engine_rejected`.",
                "content": json_of(ref("Error")),
            },
        },
    }
    return {"post": operation}


def look(operation: str, said: str, tag: str, shape: Schema, *codes: str, **more: Any) -> dict[str, Any]:
    """Describe an operation that answers 200 with one JSON object."""
    usual = ("database_unavailable", "internal", "method_not_allowed", "not_found", "scope_missing")
    return {
        "operationId": operation,
        "summary": said,
        "tags": [tag],
        "security": SECURITY,
        "responses": {"200": answer(said, json_of(shape)), **failures(*usual, *codes)},
        **more,
    }


def named(name: str, example: str) -> list[dict[str, Any]]:
    """Describe the one parameter of a path."""
    return [said_in(name, "path", text(minLength=1, example=example), required=True)]


_KEPT = said_in("stream", "query", flag("Only false: a kept response is not streamed."))
_SUMMARIES = {
    "chat": "The next message of a conversation.",
    "completion": "The continuation of a text.",
    "embedding": "Vectors of texts.",
    "response": "OpenAI's newer form; with `background: true` it is kept and asked for by id.",
}
PATHS: dict[str, Any] = {
    **{
        path: _ask(one.name.capitalize(), _SUMMARIES[one.name], one.streams) for path, one in ENDPOINTS.items()
    },
    f"{RESPONSE.path}/{{id}}": {
        "get": look(
            "retrieve_response", "A response that was asked for in the background.", "inference",
            ref("ResponseAnswer"), "response_not_found", "invalid_parameter",
            parameters=[*named("id", "resp_0123456789abcdef0123456789abcdef"), _KEPT],
        ),
    },
    f"{RESPONSE.path}/{{id}}/cancel": {
        "post": look(
            "cancel_response", "Cancels it; one that has ended stays as it is.", "inference",
            ref("ResponseAnswer"), "response_not_found", "invalid_parameter",
            parameters=named("id", "resp_0123456789abcdef0123456789abcdef"),
        ),
    },
    "/v1/models": {
        "get": look("list_models", "Models that the token's project may use.", "models", ref("ModelPage")),
    },
    "/v1/models/{model}": {
        "get": look(
            "retrieve_model", "One model, and how ready it is.", "models", ref("ModelInfo"), "model_not_found",
            parameters=named("model", "llama"),
        ),
    },
}  # fmt: skip
