"""The one table of error codes: what happened, whose side it is on, and what to do, in the OpenAI envelope.

Separate from the gateway and from Django because both answer with it: the data plane, the worker API and the
native API share codes, statuses and words. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["client", "site", "model"]  # whose fault: the caller's, Berth's or Slurm's, the engine's

# OpenAI's own words for `type`, which its clients turn into exception classes.
REQUEST = "invalid_request_error"
AUTH = "authentication_error"
PERMISSION = "permission_error"
LIMIT = "rate_limit_error"
SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table. `what` may hold {detail}."""

    code: str
    status: int
    type: str
    side: Side
    what: str
    todo: str


_TABLE = (
    # Who is asking
    Kind("token_missing", 401, AUTH, "client", "No API token was sent.",
         "Send the header 'Authorization: Bearer <token>'; create a token on the page Tokens."),
    Kind("token_malformed", 401, AUTH, "client", "This is not a Berth API token, or it was cut or mistyped.",
         "Copy the whole token again; it begins with 'berth_'."),
    Kind("token_unknown", 401, AUTH, "client", "No such API token exists here.",
         "Check that the token belongs to this portal, or create a new one on the page Tokens."),
    Kind("token_expired", 401, AUTH, "client", "The API token has expired.",
         "Create a new one on the page Tokens."),
    Kind("token_revoked", 401, AUTH, "client", "The API token has been revoked.",
         "Create a new one on the page Tokens."),
    Kind("token_disabled", 401, AUTH, "client", "The token's user or project is no longer active.",
         "Ask a manager of the project."),
    Kind("scope_missing", 403, PERMISSION, "client", "The API token lacks the scope '{detail}'.",
         "Create a token with that scope."),
    Kind("forbidden", 403, PERMISSION, "client", "You may not do this. {detail}",
         "Ask an operator or a manager of the project."),
    # What is asked
    Kind("not_found", 404, REQUEST, "client", "There is nothing at this address. {detail}",
         "Check the address against the API's documentation."),
    Kind("request_not_found", 404, REQUEST, "client", "No request of yours has this id.",
         "Check the id; it came in the x-request-id header."),
    Kind("file_not_found", 404, REQUEST, "client", "No file of yours has this id.",
         "GET /v1/files lists your files; they are kept for a while only."),
    Kind("batch_not_found", 404, REQUEST, "client", "No batch of yours has this id.",
         "GET /v1/batches lists your batches."),
    Kind("method_not_allowed", 405, REQUEST, "client", "This address does not support that method.",
         "Use {detail}."),
    Kind("body_too_large", 413, REQUEST, "client", "The body is larger than {detail} bytes.",
         "Send less, or split it into several requests."),
    Kind("invalid_json", 400, REQUEST, "client", "The body is not a JSON object in UTF-8: {detail}.",
         "Correct the body; nothing was queued."),
    Kind("invalid_parameter", 400, REQUEST, "client", "{detail}",
         "Correct the parameter; nothing was queued."),
    Kind("model_not_found", 404, REQUEST, "client",
         "The model '{detail}' does not exist or your project may not use it.",
         "GET /v1/models lists the models that you can use."),
    Kind("conflict", 409, REQUEST, "client", "{detail}", "Read the current state and try again."),
    Kind("cancelled", 409, REQUEST, "client", "The request was cancelled.",
         "Send it again if you still want the answer."),
    Kind("idempotency_conflict", 422, REQUEST, "client",
         "This Idempotency-Key has been used for another request within the last 24 hours.",
         "Use a new key for each request, and the same key only for the same body."),
    Kind("response_not_found", 404, REQUEST, "client", "No response of yours has the id '{detail}'.",
         "Only responses asked for with background: true are kept, and those for a limited time."),
    Kind("rate_limit_exceeded", 429, LIMIT, "client", "Over the limit of {detail}.",
         "Try again after the seconds in Retry-After, send less at once, or ask a manager of the project."),
    # Waiting
    Kind("model_starting", 503, SERVER, "site", "The model is not ready yet. {detail}",
         "Try again after the seconds in Retry-After, or use stream: true, which waits as long as it takes."),
    Kind("in_flight", 503, SERVER, "site", "The request with this Idempotency-Key is still being answered.",
         "Send it again after the seconds in Retry-After: its answer is kept."),
    Kind("model_unavailable", 503, SERVER, "site", "The model cannot be started now: {detail}",
         "An operator has to resolve this; trying again soon will not help."),
    Kind("detached", 503, SERVER, "site", "The connection lost its place, but the request is still queued.",
         "Ask GET /api/v1/requests/<request id> for the result."),
    # Running
    Kind("replica_lost", 502, SERVER, "site", "The job that was answering ended before the answer did.",
         "Send the request again."),
    Kind("poison", 500, SERVER, "model", "The engine died each time it ran this request. {detail}",
         "Change the request, or report it with its id."),
    Kind("engine_rejected", 400, REQUEST, "client", "{detail}", "Correct the request."),
    Kind("engine_error", 502, SERVER, "model", "The model's engine failed: {detail}",
         "Try again; report it with the request id if it persists."),
    # The site itself
    Kind("queue_unavailable", 503, SERVER, "site", "The queue cannot be reached.", "Try again in a minute."),
    Kind("database_unavailable", 503, SERVER, "site", "The database cannot be reached.",
         "Try again in a minute."),
    Kind("shutting_down", 503, SERVER, "site", "This gateway is shutting down.", "Try again at once."),
    Kind("internal", 500, SERVER, "site", "The portal had an internal error.",
         "Try again; report it with the request id if it persists."),
)  # fmt: skip

# Trying these again soon cannot help; OpenAI's clients obey the header instead of retrying twice.
_FINAL = frozenset({"model_unavailable", "poison", "replica_lost", "cancelled", "detached"})
# Trying these again is how the answer is had.
_AGAIN = frozenset({"model_starting", "in_flight"})

KINDS: dict[str, Kind] = {kind.code: kind for kind in _TABLE}


class ApiError(Exception):
    """An answer that is an error. `code` names a line of the table; a code that is not there is a bug."""

    def __init__(
        self,
        code: str,
        *,
        detail: str = "",
        param: str | None = None,
        status: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(code)
        self.kind = KINDS[code]
        self.code = code
        self.param = param
        self.status = status if status is not None else self.kind.status
        self.retry_after_s = retry_after_s
        # "GET or POST": HTTP wants them in a header, too.
        self._allow = detail.replace(" or ", ", ") if code == "method_not_allowed" else ""
        # Not str.format: the detail may hold braces.
        said = self.kind.what.replace("{detail}", detail).strip()
        self.message = f"{said} {self.kind.todo.replace('{detail}', detail)}"

    def envelope(self, request_id: str) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.kind.type,
                "param": self.param,
                "code": self.code,
                "side": self.kind.side,
                "request_id": request_id,
            }
        }

    def body(self, request_id: str) -> bytes:
        return json.dumps(self.envelope(request_id)).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = []
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self._allow:
            headers.append((b"allow", self._allow.encode()))
        if self.code in _FINAL:
            headers.append((b"x-should-retry", b"false"))
        elif self.code in _AGAIN:
            headers.append((b"x-should-retry", b"true"))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        return headers
