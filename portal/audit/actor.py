"""Who acts now, and from where: known at the edge (a request, the command line), used where a row is written.

Separate from `signals`, because everything else of a request passes by here and must pay nothing for it: who it is
is only asked when something is recorded. It knows no tables: `manage.py` needs it before there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponseBase

Who = tuple[int | None, str]


@dataclass(frozen=True, slots=True)
class Actor:
    origin: str
    who: Callable[[], Who]


_NOBODY = Actor("program", lambda: (None, "Berth"))
_now: ContextVar[Actor] = ContextVar("berth_actor", default=_NOBODY)


def actor() -> Actor:
    return _now.get()


@contextmanager
def acting(origin: str, who: Callable[[], Who]) -> Iterator[None]:
    kept = _now.set(Actor(origin, who))
    try:
        yield
    finally:
        _now.reset(kept)


class Acting:
    """A middleware that notes who acts. The API puts a token's person into the same request, so one look serves both."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        origin = "admin" if path.startswith("/admin/") else "api" if path.startswith("/api/") else "page"
        with acting(origin, lambda: _person(request)):
            return self._get_response(request)


def _person(request: HttpRequest) -> Who:
    user = request.user
    return (user.pk, user.get_username()) if user.is_authenticated else (None, "somebody without an account")
