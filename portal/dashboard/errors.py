"""The pages of errors. Under ASGI Django makes them on a thread of its own, at which no end of a request closes or
renews database connections: what they opened there they close themselves, or it would be there for good, and after a
restart of PostgreSQL no such page could be made any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.views import defaults

Handler = Callable[[HttpRequest, Exception], HttpResponse]


def _alone(handler: Handler) -> Handler:
    @wraps(handler)
    def closing(request: HttpRequest, exception: Exception) -> HttpResponse:
        try:
            return handler(request, exception)
        finally:
            for connection in connections.all(initialized_only=True):
                if not connection.in_atomic_block:
                    connection.close()

    return closing


not_found = _alone(defaults.page_not_found)
not_allowed = _alone(defaults.permission_denied)
