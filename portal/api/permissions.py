"""A call and the view that it reaches → whether it may, by the token's scopes or as an operator."""

from __future__ import annotations

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from portal.accounts.models import ApiToken
from portal.errors import ApiError
from portal.services.access import READ, caller


class HasScope(BasePermission):
    """A token needs one of the view's `scopes[method]`. The browser's session carries every scope."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        token = request.auth
        wanted: tuple[str, ...] = getattr(view, "scopes", {}).get(request.method or "", (READ,))
        if isinstance(token, ApiToken) and not set(wanted) & set(token.scopes):
            raise ApiError("scope_missing", detail=wanted[0])
        return True


class IsOperator(BasePermission):
    message = "Only operators see the fleet and give it commands."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return caller(request).operates
