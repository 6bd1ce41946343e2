"""Single sign-on: allauth's OpenID Connect flow, held to Berth's rules.

allauth does the protocol (state, PKCE, the exchange of the code). What it leaves open is closed here: the provider is
the configured issuer and signs as such, a person is (issuer, subject) and no e-mail address, nobody is linked to an
account that exists, and who is unknown waits until somebody approves. Nothing of it is read from the database's tables
of apps: providers come from the environment.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from typing import Any
from urllib.parse import urlsplit

import jwt
from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from portal.accounts import claims
from portal.accounts.models import ClaimRule, User
from portal.config import config
from portal.config.oidc import LOOPBACK, Provider

log = logging.getLogger(__name__)

WAITING = "sso_waiting"  # key in the session of somebody who was not let in
KEPT_CLAIMS = ("name", "email", "preferred_username", "idp")
COLUMN = 191  # characters of allauth's column; OpenID Connect allows a subject 255
_SUBJECT = re.compile(r"[\x21-\x7e]{1,255}")
_ENDPOINTS = ("authorization_endpoint", "token_endpoint")


def provider_of(id: str) -> Provider | None:
    return next((provider for provider in config().oidc if provider.id == id), None)


class Exchange(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    """One log-in: what the provider says is believed only where it says so as the configured issuer."""

    @property
    def redirect_uri_protocol(self) -> str | None:
        return "https" if config().secure_cookies else None

    @property
    def openid_config(self) -> dict[str, Any]:
        found: dict[str, Any] = super().openid_config
        issuer = self.get_provider().ours.issuer
        if found.get("issuer") != issuer:
            raise OAuth2Error(f"the discovery document of {issuer} names another issuer")
        for name in _ENDPOINTS:
            parts = urlsplit(str(found.get(name)))
            if parts.scheme != "https" and parts.hostname not in LOOPBACK:
                raise OAuth2Error(f"{name} of {issuer} is no https:// address")
        return found

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **kwargs: Any) -> Any:
        provider = self.get_provider()
        said = _id_token(kwargs["response"].get("id_token"), provider.ours)
        if "userinfo_endpoint" in self.openid_config:
            more = self._fetch_user_info(token.token)
            if not isinstance(more, dict) or more.get("sub") != said["sub"]:
                raise OAuth2Error("userinfo is of another subject than the ID token")
            said = {**more, **said}
        login = provider.sociallogin_from_response(request, {"id_token": said})
        login.claims = said
        return login


class Oidc(OpenIDConnectProvider):  # type: ignore[misc]
    oauth2_adapter_class = Exchange

    @property
    def ours(self) -> Provider:
        found = provider_of(self.app.provider_id)
        assert found is not None
        return found

    def extract_uid(self, data: dict[str, Any]) -> str:
        subject = str(data["id_token"]["sub"])
        return subject if len(subject) <= COLUMN else "sha256:" + hashlib.sha256(subject.encode()).hexdigest()

    def extract_common_fields(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the fields without the e-mail address, which allauth would compare with those of others."""
        return {**super().extract_common_fields(data), "email": None}

    def extract_email_addresses(self, data: dict[str, Any]) -> list[Any]:
        return []

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the few claims that are kept: claims may hold anything."""
        return {name: data["id_token"][name] for name in KEPT_CLAIMS if name in data["id_token"]}


def _id_token(text: Any, provider: Provider) -> dict[str, Any]:
    """Return the token's claims. It came from the token endpoint over TLS, so its signature need not be checked
    (OpenID Connect Core, 3.1.3.7). Raise OAuth2Error."""
    try:
        said: dict[str, Any] = jwt.decode(
            text,
            options={
                "verify_signature": False,
                "verify_aud": True,
                "verify_iss": True,
                "verify_exp": True,
                "require": ["iss", "sub", "aud", "exp"],
            },
            audience=provider.client_id,
            issuer=provider.issuer,
            leeway=60,
        )
    except jwt.PyJWTError as error:
        raise OAuth2Error(f"no ID token that holds: {error}") from None
    if not isinstance(said["sub"], str) or not _SUBJECT.fullmatch(said["sub"]):
        raise OAuth2Error("the subject is no text of 1 to 255 ASCII characters")
    if said.get("azp", provider.client_id) != provider.client_id:
        raise OAuth2Error("the ID token is for another client")
    return said


class Identities(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Answer what allauth asks at each turn of a log-in."""

    def list_apps(self, request: Any, provider: Any = None, client_id: Any = None) -> list[SocialApp]:
        return [
            SocialApp(
                provider="openid_connect",
                provider_id=one.id,
                name=one.name,
                client_id=one.client_id,
                secret=one.client_secret,
                settings={
                    "server_url": one.issuer.rstrip("/") + "/.well-known/openid-configuration",
                    "oauth_pkce_enabled": True,
                    "scope": list(one.scopes),
                },
            )
            for one in config().oidc
            if provider in (None, one.id) and client_id in (None, one.client_id)
        ]

    def get_provider(self, request: Any, provider: Any, client_id: Any = None) -> Oidc:
        return Oidc(request, app=self.get_app(request, provider=provider, client_id=client_id))

    def can_authenticate_by_email(self, login: Any, email: str) -> bool:
        return False

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        if sociallogin.state.get("process") != "login":
            raise ImmediateHttpResponse(refusal(request, "failed", status=400))
        provider = sociallogin.provider.ours
        standing = claims.judge(provider, sociallogin.claims, ClaimRule.objects.all())
        if standing.refused:
            log.warning("%s: people of %s may not log in", provider.issuer, standing.refused[:200])
            raise ImmediateHttpResponse(refusal(request, "idp", provider.name, standing.refused, status=403))
        sociallogin.standing = standing
        if sociallogin.is_existing:
            claims.apply(sociallogin.user, standing)
            _refresh_address(sociallogin.user, sociallogin.claims)

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        """Create an account for somebody new: it waits, unless a claim gives a project."""
        user: User = sociallogin.user
        user.set_unusable_password()
        user.username = free_name(sociallogin.claims)
        user.email = _address(sociallogin.claims)
        user.is_active, user.is_pending = False, True
        try:
            with transaction.atomic():
                user.save()
                sociallogin.account.user = user
                sociallogin.account.save()
                claims.apply(user, sociallogin.standing)
        except IntegrityError:  # the same person in two windows, or a name that was taken just now
            raise OAuth2Error("two log-ins of one person at once") from None
        log.info("new account %s by %s", user.username, sociallogin.provider.ours.issuer)
        return user

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: Any = None,
        exception: Any = None,
        extra_context: Any = None,
    ) -> None:
        if getattr(error, "value", error) == "cancelled":
            raise ImmediateHttpResponse(redirect("login"))
        why = f"{type(exception).__name__}: {exception}" if exception else f"answer {error}, or an old one"
        log.warning("single sign-on at %s failed: %s", provider.ours.issuer, why[:300])
        raise ImmediateHttpResponse(refusal(request, "failed", provider.ours.name, status=401))


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def respond_user_inactive(self, request: HttpRequest, user: Any) -> HttpResponse:
        request.session[WAITING] = {"name": user.username, "is_pending": user.is_pending}
        return redirect("sso-waiting")

    def add_message(self, *args: Any, **kwargs: Any) -> None:
        """Drop allauth's messages: Berth's pages say what there is to say."""


def refusal(request: HttpRequest, why: str, name: str = "", idp: str = "", status: int = 403) -> HttpResponse:
    return render(
        request, "dashboard/sso_refused.html", {"why": why, "name": name, "idp": idp}, status=status
    )


def free_name(said: claims.Claims) -> str:
    """Return a user name that nobody has: people recognise each other by it. It identifies nobody at log-in."""
    wish = str(said.get("preferred_username") or _address(said).partition("@")[0] or said.get("name") or "")
    plain = unicodedata.normalize("NFKC", wish).partition("@")[0]
    plain = re.sub(r"[^\w.+-]", "", plain)[:140] or "person"
    taken = {
        name.casefold()
        for name in User.objects.filter(username__istartswith=plain).values_list("username", flat=True)
    }
    number = 1
    name = plain
    while name.casefold() in taken:
        number += 1
        name = f"{plain}{number}"
    return name


def _address(said: claims.Claims) -> str:
    """Return where mail goes. It is worth nothing else, so it need not be verified."""
    text = str(said.get("email") or "")
    return text if re.fullmatch(r"[^\s@<>,;]+@[^\s@<>,;]+", text) and len(text) <= 254 else ""


def _refresh_address(user: User, said: claims.Claims) -> None:
    address = _address(said)
    if address and address != user.email:
        User.objects.filter(pk=user.pk).update(email=address)


def identities_of(user: User) -> list[tuple[str, str]]:
    """Return (issuer, subject) of everything that this person logs in with."""
    rows = SocialAccount.objects.filter(user=user).order_by("pk")
    return [(issuer_of(row.provider), row.uid) for row in rows]


def issuer_of(id: str) -> str:
    found = provider_of(id)
    return found.issuer if found else f"{id} (not configured)"
