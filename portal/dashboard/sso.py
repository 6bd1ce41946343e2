"""Single sign-on in the browser: the way to the identity provider, the way back, and the page of those who wait.

The way there is a page that leads on by itself, not a redirect: our Content-Security-Policy lets forms send to
this site only, and browsers apply that to wherever an answer to a form redirects.
"""

from __future__ import annotations

import logging
import time

from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from requests import RequestException

from portal.accounts import throttle
from portal.accounts.sso import WAITING, Exchange, Identities, provider_of, refusal
from portal.config.oidc import Provider
from portal.fleet.times import span

log = logging.getLogger(__name__)

# No name of a person. Many may sit behind one address; each start costs the provider a question and us a session.
THROTTLED = "\0single sign-on"
MOST_STARTS = 60


@never_cache
@require_POST
def start(request: HttpRequest, provider_id: str) -> HttpResponse:
    provider = _known(provider_id)
    wait_s = throttle.begin(THROTTLED, request.META.get("REMOTE_ADDR", ""), time.time(), MOST_STARTS)
    if wait_s:
        context = {"why": "often", "wait": span(wait_s)}
        answer = render(request, "dashboard/sso_refused.html", context, status=429)
        answer.headers["Retry-After"] = str(wait_s)
        return answer
    try:
        onward = (
            Identities(request)
            .get_provider(request, provider_id)
            .redirect(request, "login", next_url=_inside(request))
        )
    except (RequestException, OAuth2Error, KeyError, ValueError) as error:
        log.warning("%s cannot be used: %s: %s", provider.issuer, type(error).__name__, str(error)[:300])
        return refusal(request, "away", provider.name, status=502)
    return render(request, "dashboard/sso_go.html", {"to": onward["Location"], "name": provider.name})


@never_cache
@require_GET
def callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    provider = _known(provider_id)
    try:
        answer = OAuth2CallbackView.adapter_view(Exchange(request, provider_id))(request)
    except (KeyError, ValueError) as error:  # an answer of a shape that nobody expects
        log.warning("%s answered strangely: %s", provider.issuer, type(error).__name__)
        return refusal(request, "failed", provider.name, status=401)
    assert isinstance(answer, HttpResponse)
    return answer


@never_cache
@require_GET
def waiting(request: HttpRequest) -> HttpResponse:
    """Show somebody who was recognised and not let in the reason."""
    who = request.session.get(WAITING)
    if not who or request.user.is_authenticated:
        return redirect("home" if request.user.is_authenticated else "login")
    return render(request, "dashboard/sso_waiting.html", who)


def _known(id: str) -> Provider:
    provider = provider_of(id)
    if provider is None:
        raise Http404
    return provider


def _inside(request: HttpRequest) -> str | None:
    """Return where to go afterwards, if that is an address of this site."""
    wish = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(wish, {request.get_host()}, require_https=request.is_secure())
    return wish if safe else None
