"""Schemas of what goes in and out of the data plane, named as the document's paths refer to them.

Of requests only what the gateway itself checks or acts on: the rest is the engine's, passes untouched and is not
described twice. Of answers only what a program may rely on whatever the engine.
"""

from __future__ import annotations

from gpuworker import wire
from portal.api.document.words import (
    ANY,
    Schema,
    flag,
    listed,
    number,
    one_of,
    or_null,
    ref,
    text,
    thing,
    whole,
)
from portal.batches.intake import ENDPOINTS, WINDOWS
from portal.ledger.states import BatchState

_MODEL = text("One of `GET /v1/models`.", minLength=1, example="llama")
_TOKENS = or_null(whole("Longest answer, in tokens. Counts towards tokens per minute.", minimum=1))
_COMMON: dict[str, Schema] = {
    "stream": or_null(flag("Waits as long as it takes, with heartbeats; otherwise at most `max_wait_s`.")),
    "temperature": or_null(number()),
    "top_p": or_null(number()),
    "n": or_null(whole(minimum=1)),
}
_STREAMED = {"stream_options": or_null(thing({}, {"include_usage": flag()}))}
_PENALTIES = {"presence_penalty": or_null(number()), "frequency_penalty": or_null(number())}
_TEXTS: Schema = {
    "oneOf": [text(minLength=1), listed(ANY, minItems=1)],
    "description": "A text, or a list of texts, tokens or items.",
}
_MESSAGE = thing(
    {"role": text(example="user")},
    {
        "content": {
            "nullable": True,
            "oneOf": [text(), listed(thing({}))],
            "description": "A text or its parts.",
        }
    },
)
_USAGE = thing({"prompt_tokens": whole(), "total_tokens": whole()}, {"completion_tokens": whole()})
_CHOICE = thing({"index": whole()}, {"finish_reason": or_null(text())})
_WHEN = or_null(whole("UNIX seconds."))
_COUNTS = {name: whole(minimum=0) for name in ("total", "completed", "failed", "cancelled", "expired")}


def _page(of: str) -> Schema:
    return thing(
        {
            "object": one_of("list"),
            "data": listed(ref(of)),
            "first_id": or_null(text()),
            "last_id": or_null(text("`after` of the next page.")),
            "has_more": flag(),
        }
    )


_ASKED: dict[str, Schema] = {
    "ChatRequest": thing(
        {"model": _MODEL, "messages": listed(_MESSAGE, minItems=1)},
        {**_COMMON, **_STREAMED, **_PENALTIES, "max_tokens": _TOKENS, "max_completion_tokens": _TOKENS},
    ),
    "CompletionRequest": thing(
        {"model": _MODEL, "prompt": {**_TEXTS, "oneOf": [text(), listed(ANY, minItems=1)]}},
        {**_COMMON, **_STREAMED, **_PENALTIES, "max_tokens": _TOKENS},
    ),
    "EmbeddingRequest": thing({"model": _MODEL, "input": _TEXTS}),
    "ResponseRequest": thing(
        {"model": _MODEL, "input": {**_TEXTS, "oneOf": [text(), listed(ANY, minItems=1)]}},
        {
            **_COMMON,
            "max_output_tokens": _TOKENS,
            "background": or_null(flag("Answered at once; retrieve and cancel it by its id.")),
            "previous_response_id": or_null(
                text("Refused unless null: send the whole conversation in `input`.", maxLength=0)
            ),
        },
    ),
}
_ANSWERED: dict[str, Schema] = {
    "ChatAnswer": thing(
        {"id": text(), "object": one_of("chat.completion"), "model": text(), "choices": listed(_CHOICE)},
        {"usage": or_null(_USAGE), "created": whole()},
    ),
    "CompletionAnswer": thing(
        {"id": text(), "object": one_of("text_completion"), "model": text(), "choices": listed(_CHOICE)},
        {"usage": or_null(_USAGE), "created": whole()},
    ),
    "EmbeddingAnswer": thing(
        {
            "object": one_of("list"),
            "model": text(),
            "data": listed(thing({"object": one_of("embedding"), "index": whole(), "embedding": ANY})),
        },
        {"usage": _USAGE},
    ),
    "ResponseAnswer": thing(
        {
            "id": text(),
            "object": one_of("response"),
            "status": one_of("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"),
            "model": text(),
            "output": listed(thing({"type": text()})),
        },
        {
            "created_at": number(),
            "background": or_null(flag()),
            "error": or_null(thing({"code": text(), "message": text()})),
            "usage": or_null(thing({"input_tokens": whole(), "output_tokens": whole()})),
        },
    ),
    "Accepted": thing(
        {
            "id": text(format="uuid"),
            "state": text("Usually `queued`, or `parked`: over a limit that refills."),
            "lane": one_of("async"),
            "model": text(),
            "api": one_of(*sorted(wire.ENDPOINTS)),
            "location": text(format="uri-reference"),
        }
    ),
}
_MODELS: dict[str, Schema] = {
    "ModelInfo": thing(
        {
            "id": text(),
            "object": one_of("model"),
            "created": whole(),
            "owned_by": text(),
            "berth": thing(
                {
                    "residency": one_of("ready", "starting", "not_loaded", "unavailable"),
                    "eta_s": or_null(number("Until it is ready; null: unknown.")),
                    "reason": text(),
                    "context_tokens": or_null(whole()),
                }
            ),
        }
    ),
    "ModelPage": thing({"object": one_of("list"), "data": listed(ref("ModelInfo"))}),
}
_FILES: dict[str, Schema] = {
    "FileForm": thing(
        {
            "purpose": one_of("batch"),
            "file": text("One request a line: custom_id, method, url, body.", format="binary"),
        },
        {"expires_after[seconds]": whole("Shorter than the site keeps files.", minimum=3600)},
    ),
    "File": thing(
        {
            "id": text("file-<uuid>"),
            "object": one_of("file"),
            "bytes": whole(),
            "created_at": whole(),
            "expires_at": whole("Then it is erased."),
            "filename": text(),
            "purpose": one_of("batch", "batch_output"),
            "status": one_of("processed"),
        }
    ),
    "FilePage": _page("File"),
    "FileDeleted": thing({"id": text(), "object": one_of("file"), "deleted": flag()}),
}
_BATCHES: dict[str, Schema] = {
    "BatchRequest": thing(
        {
            "input_file_id": text(example="file-01234567-89ab-cdef-0123-456789abcdef"),
            "endpoint": one_of(*sorted(ENDPOINTS), description="Of every line; models may be mixed."),
            "completion_window": one_of(*WINDOWS, description="What has not run by then expires."),
        },
        {
            "metadata": or_null(
                {
                    "type": "object",
                    "maxProperties": 16,
                    "additionalProperties": text(maxLength=512),
                    "description": "Names of up to 64 characters.",
                }
            )
        },
    ),
    "Batch": thing(
        {
            "id": text("batch_<uuid>"),
            "object": one_of("batch"),
            "endpoint": text(),
            "input_file_id": text(),
            "completion_window": one_of(*WINDOWS),
            "status": one_of(*map(str, BatchState)),
            "errors": or_null(
                thing(
                    {
                        "object": one_of("list"),
                        "data": listed(
                            thing({"code": text(), "message": text()}, {"line": or_null(whole("From 1."))})
                        ),
                    },
                    description="Why it failed before anything was queued.",
                )
            ),
            "output_file_id": or_null(text("May be read while the batch runs: it holds what has ended.")),
            "error_file_id": or_null(text("Lines that failed or expired.")),
            "request_counts": thing(_COUNTS),
            "metadata": or_null(thing({})),
            "created_at": whole(),
        },
        {
            f"{step}_at": _WHEN
            for step in (
                "in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
            )
        },
    ),
    "BatchPage": _page("Batch"),
}  # fmt: skip
SCHEMAS: dict[str, Schema] = {**_ASKED, **_ANSWERED, **_MODELS, **_FILES, **_BATCHES}
