"""What drf-spectacular finds of the native API → the whole OpenAPI document: the data plane's paths beside it, and
the errors and headers that every answer of either may have.

The gateway knows no Django, so nothing can be derived from it; tests/flow/test_openapi.py holds the document against
the running portal instead.
"""

from __future__ import annotations

from typing import Any

from portal.api.document import files, inference, shapes
from portal.api.document.failures import ERROR, failures
from portal.api.document.words import REQUEST_ID

# What DRF itself answers on each path: tokens, parsing, pages, what is none of the caller's business.
_NATIVE = ("forbidden", "internal", "method_not_allowed", "not_found", "scope_missing")
_NATIVE_BODY = ("body_too_large", "invalid_json", "model_not_found")
_TAGS = (
    ("inference", "OpenAI's inference API. Fields that are not described here go to the engine as they are."),
    ("files", "Files of batches, in OpenAI's shapes."),
    ("batches", "Many requests in one file, done when nothing more urgent is."),
    ("requests", "Requests of one's own: state, place in line, timeline, result, cancel."),
    ("models", "What may be used, and how ready it is."),
    ("fleet", "For operators: jobs, replicas, commands, decisions."),
)


def complete(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Complete the document: a POSTPROCESSING_HOOK of drf-spectacular."""
    for path, verbs in result["paths"].items():
        for verb, operation in verbs.items():
            _add_failures(path, verb, operation)
    result["paths"] = {**inference.PATHS, **files.PATHS, **result["paths"]}
    schemas = result["components"].setdefault("schemas", {})
    schemas |= {"Error": ERROR, **shapes.SCHEMAS}
    result["tags"] = [{"name": name, "description": text} for name, text in _TAGS]
    return result


def _add_failures(path: str, verb: str, operation: dict[str, Any]) -> None:
    """Add the failures to an operation of the native API, whose views raise the same errors."""
    fleet = path.split("/")[3] in ("fleet", "commands", "decisions")
    operation["tags"] = ["fleet" if fleet else path.split("/")[3]]
    for response in operation["responses"].values():
        if "x-request-id" in response.get("headers", {}):
            response["headers"]["x-request-id"] = REQUEST_ID
    codes = {*_NATIVE, "invalid_parameter", *(_NATIVE_BODY if verb == "post" else ())}
    if verb == "delete":
        codes.add("conflict")
    if path.endswith("/requests/{id}"):
        codes.add("request_not_found")
    if "/models/" in path:
        codes.add("model_not_found")
    if path.endswith("/requests") and verb == "post":
        codes |= {"rate_limit_exceeded", "queue_unavailable"}
    # An Accept or Content-Type that is not JSON.
    operation["responses"] |= failures(*codes, more={406: "Not acceptable", 415: "Not JSON"})
