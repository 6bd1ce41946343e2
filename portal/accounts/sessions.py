"""How old a browser's session may grow: so long unused, so long at all; then it is ended on the server.

The cookie's own age is only what the browser keeps. What a page asks by itself to stay fresh is no use of it: a window
that was left open does not keep a session alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.contrib.auth import SESSION_KEY, logout
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from portal.config import config

BEGAN, USED = "began_at", "used_at"
NOTED_EVERY_S = 60  # a row is written no oftener


@receiver(user_logged_in)
def begin(sender: Any, request: HttpRequest, **kwargs: Any) -> None:
    request.session[BEGAN] = request.session[USED] = time.time()


class Ages:
    """A middleware that ends sessions by their age; it stands behind those of sessions and users."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if SESSION_KEY in request.session:
            self._look(request, time.time())
        return self._get_response(request)

    def _look(self, request: HttpRequest, now: float) -> None:
        # One from before there were ages has none: it is over.
        began, used = request.session.get(BEGAN, 0.0), request.session.get(USED, 0.0)
        if now - began > config().session_most_s or now - used > config().session_idle_s:
            logout(request)
        elif now - used > NOTED_EVERY_S and request.headers.get("HX-Request") != "true":
            request.session[USED] = now
