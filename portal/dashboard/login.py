"""The log-in page. Whoever guesses waits; the admin's own log-in page leads here, so that there is one door."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse

from portal.accounts import throttle
from portal.config import config
from portal.fleet.times import span


class Password(AuthenticationForm):
    def confirm_login_allowed(self, user: Any) -> None:
        super().confirm_login_allowed(user)
        if not (config().local_login or user.is_superuser):
            raise self.get_invalid_login_error()


class LogIn(LoginView):
    template_name = "dashboard/login.html"
    form_class = Password

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        said = {"providers": config().oidc, "is_local": config().local_login}
        return super().get_context_data(**said, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        wait_s = throttle.begin(*_who(request), time.time())
        if not wait_s:
            return super().post(request, *args, **kwargs)
        context = self.get_context_data(form=self.get_form_class()(request), wait=span(wait_s))
        answer = self.render_to_response(context, status=429)
        answer.headers["Retry-After"] = str(wait_s)
        return answer

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        throttle.forget(*_who(self.request))
        return super().form_valid(form)


def _who(request: HttpRequest) -> tuple[str, str]:
    return request.POST.get("username", ""), request.META.get("REMOTE_ADDR", "")
