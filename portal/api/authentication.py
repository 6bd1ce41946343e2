"""A bearer token → its user; the token itself becomes `request.auth`. The codes are the gateway's.

Separate from the gateway's directory, because a page or a script that calls the native API may ask PostgreSQL.
"""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from portal.accounts import tokens
from portal.accounts.models import ApiToken, Membership, User
from portal.errors import ApiError

# Often enough to tell a token that is used from one that is not, seldom enough to cost nothing.
USE_NOTED_EVERY = timedelta(minutes=1)


class TokenAuthentication(BaseAuthentication):
    """An authentication by `Authorization: Bearer berth_…`.

    Without the header the next scheme, the browser's session, is tried.
    """

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = checked(text.strip())
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def checked(text: str) -> ApiToken:
    """Return the live token with this text. Raise ApiError."""
    if not tokens.well_formed(text):
        raise ApiError("token_malformed")
    token = ApiToken.objects.select_related("user", "project").filter(digest=tokens.digest(text)).first()
    if token is None:
        raise ApiError("token_unknown")
    now = timezone.now()
    if token.revoked_at is not None:
        raise ApiError("token_revoked")
    if token.expires_at <= now:
        raise ApiError("token_expired")
    member = Membership.objects.filter(user=token.user, project=token.project).exists()
    if not (token.user.is_active and token.project.is_active and member):
        raise ApiError("token_disabled")
    if token.last_used_at is None or now - token.last_used_at > USE_NOTED_EVERY:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """An extension that describes the scheme in the OpenAPI document. drf-spectacular finds it as a
    subclass."""

    target_class = "portal.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "berth_…"}
