"""The paths of files and batches in the document."""

from __future__ import annotations

from typing import Any

from portal.api.document.failures import failures
from portal.api.document.inference import SECURITY, look, named
from portal.api.document.words import answer, json_of, one_of, ref, said_in, text, whole

_FILE = named("file", "file-01234567-89ab-cdef-0123-456789abcdef")
_BATCH = named("batch", "batch_01234567-89ab-cdef-0123-456789abcdef")


def _pages(most: int) -> list[dict[str, Any]]:
    return [
        said_in("limit", "query", whole(minimum=1, maximum=most)),
        said_in("after", "query", text("`last_id` of the page before.")),
    ]


def _taking(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


_CONTENT = {
    "operationId": "read_file",
    "summary": "What is in it, also while a batch still writes it: complete lines.",
    "tags": ["files"],
    "security": SECURITY,
    "parameters": _FILE,
    "responses": {
        "200": answer("The bytes.", {"application/octet-stream": {"schema": text(format="binary")}}),
        **failures(
            "database_unavailable", "file_not_found", "internal", "method_not_allowed", "not_found", "scope_missing"
        ),
    },
}  # fmt: skip
PATHS: dict[str, Any] = {
    "/v1/files": {
        "post": look(
            "create_file", "Uploads the input of a batch.", "files", ref("File"),
            "body_too_large", "invalid_parameter", **_taking({"multipart/form-data": {"schema": ref("FileForm")}}),
        ),
        "get": look(
            "list_files", "Your files.", "files", ref("FilePage"), "invalid_parameter", "file_not_found",
            parameters=[
                *_pages(10_000),
                said_in("order", "query", one_of("asc", "desc")),
                said_in("purpose", "query", one_of("batch", "batch_output")),
            ],
        ),
    },
    "/v1/files/{file}": {
        "get": look("retrieve_file", "One file.", "files", ref("File"), "file_not_found", parameters=_FILE),
        "delete": look(
            "delete_file", "Erases it, unless a batch that is not over uses it.", "files", ref("FileDeleted"),
            "file_not_found", "conflict", parameters=_FILE,
        ),
    },
    "/v1/files/{file}/content": {"get": _CONTENT},
    "/v1/batches": {
        "post": look(
            "create_batch", "A file of requests, done when nothing more urgent is.", "batches", ref("Batch"),
            "body_too_large", "file_not_found", "invalid_json", "invalid_parameter",
            **_taking(json_of(ref("BatchRequest"))),
        ),
        "get": look(
            "list_batches", "Your batches, newest first.", "batches", ref("BatchPage"),
            "invalid_parameter", "batch_not_found", parameters=_pages(100),
        ),
    },
    "/v1/batches/{batch}": {
        "get": look("retrieve_batch", "One batch.", "batches", ref("Batch"), "batch_not_found", parameters=_BATCH),
    },
    "/v1/batches/{batch}/cancel": {
        "post": look(
            "cancel_batch", "Ends what has not run; what has ended stays in the output.", "batches", ref("Batch"),
            "batch_not_found", "conflict", parameters=_BATCH,
        ),
    },
}  # fmt: skip
