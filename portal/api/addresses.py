"""Addresses that no row can have → 400, before a view looks for one: PostgreSQL's text holds no NUL.

Middleware, because a NUL may stand in any path and any query, of pages as of the API. What is in bodies is checked
where it is read: a prompt may well hold one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from portal.errors import ApiError

_SAID = "The address holds a NUL character."


class WithoutNul:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if "\0" not in request.path_info and "%00" not in query and "\0" not in query:
            return self._get_response(request)
        if not request.path_info.startswith("/api/"):
            raise BadRequest(_SAID)
        error, request_id = ApiError("invalid_parameter", detail=_SAID), str(uuid.uuid4())
        headers = {"x-request-id": request_id}
        return HttpResponse(error.body(request_id), "application/json", error.status, headers=headers)
