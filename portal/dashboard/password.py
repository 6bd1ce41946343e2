"""A person's own password, changed by whoever knows the old one. Their other sessions end with it.

Not for those whom an identity provider knows: they have no password here. Guesses at the old one count as those at the
log-in page do, so that an unlocked screen is no better place for them.
"""

from __future__ import annotations

import time
from typing import Any

from django.contrib import messages
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse_lazy

from portal.accounts import throttle
from portal.accounts.models import User
from portal.config import config
from portal.fleet.times import span
from portal.services.access import caller


def has_one(user: User) -> bool:
    return user.has_usable_password() and (config().local_login or user.is_superuser)


class ChangePassword(PasswordChangeView):
    template_name = "dashboard/password.html"
    success_url = reverse_lazy("home")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(has_one=has_one(caller(self.request)), **kwargs)

    def get_form(self, form_class: Any = None) -> PasswordChangeForm:
        form = super().get_form(form_class)
        form.label_suffix = ""
        return form

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user = caller(request)
        if not has_one(user):
            raise PermissionDenied
        wait_s = throttle.begin(user.username, request.META.get("REMOTE_ADDR", ""), time.time())
        if not wait_s:
            return super().post(request, *args, **kwargs)
        form = self.get_form_class()(user, label_suffix="")
        answer = self.render_to_response(self.get_context_data(form=form, wait=span(wait_s)), status=429)
        answer.headers["Retry-After"] = str(wait_s)
        return answer

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        throttle.forget(form.user.username, self.request.META.get("REMOTE_ADDR", ""))
        answer = super().form_valid(form)
        messages.success(
            self.request,
            "Your password is changed. Other browsers that were logged in as you are logged out.",
        )
        return answer

    def form_invalid(self, form: PasswordChangeForm) -> HttpResponse:
        return self.render_to_response(self.get_context_data(form=form), status=422)
