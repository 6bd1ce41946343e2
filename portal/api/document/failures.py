"""Lines of the table of errors (portal.errors) → the responses of an operation, by status."""

from __future__ import annotations

from typing import Any

from portal.api.document.words import (
    REQUEST_ID,
    Schema,
    header,
    json_of,
    one_of,
    or_null,
    ref,
    text,
    thing,
    whole,
)
from portal.errors import KINDS

_TOKEN = (
    "token_missing",
    "token_malformed",
    "token_unknown",
    "token_expired",
    "token_revoked",
    "token_disabled",
)

ERROR: Schema = thing(
    {
        "error": thing(
            {
                "message": text("What happened and what to do about it."),
                "type": one_of(*sorted({kind.type for kind in KINDS.values()}), description="OpenAI's word."),
                "param": or_null(text("The parameter or header that is wrong.")),
                "code": one_of(*KINDS, description="Stable: programs may rely on it."),
                "side": one_of("client", "site", "model", description="Whose fault it is."),
                "request_id": text(format="uuid"),
            }
        )
    },
    description="The one form of every error; in a stream that has begun it comes as `data: {…}`.",
)
_RETRY_AFTER = header(whole("Seconds after which to try again.", minimum=0))
_SHOULD_RETRY = header(
    one_of("true", "false", description="Obeyed by OpenAI's clients: try again by itself or not.")
)


def failures(*codes: str, more: dict[int, str] | None = None) -> dict[str, Any]:
    """Describe the answers with these error codes. `more`: statuses that carry another line's code than
    its usual status."""
    by_status: dict[int, list[str]] = {}
    for code in (*_TOKEN, *sorted(codes)):
        by_status.setdefault(KINDS[code].status, []).append(code)
    said = {
        status: "\n".join(f"- `{code}`: {_line(code)}" for code in found)
        for status, found in by_status.items()
    }
    return {str(status): _response(status, text) for status, text in sorted((said | (more or {})).items())}


def _line(code: str) -> str:
    return f"{KINDS[code].what} {KINDS[code].todo}".replace("{detail}", "…")


def _response(status: int, description: str) -> dict[str, Any]:
    headers = {"x-request-id": REQUEST_ID}
    if status in (429, 503):
        headers["retry-after"] = _RETRY_AFTER
    if status in (409, 500, 502, 503):
        headers["x-should-retry"] = _SHOULD_RETRY
    if status == 405:
        headers["allow"] = header(text("The methods that the address takes."), always=True)
    if status == 401:
        headers["www-authenticate"] = header(text(), always=True)
    return {"description": description, "headers": headers, "content": json_of(ref("Error"))}
