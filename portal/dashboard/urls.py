"""Addresses of the pages."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from portal.dashboard import (
    batches,
    fleet,
    help,
    home,
    now,
    playground,
    projects,
    queue,
    register,
    requests,
    sso,
    tokens,
)
from portal.dashboard.login import LogIn

urlpatterns = [
    path("", home.page, name="home"),
    path("fragments/home", home.fragment, name="home-fragment"),
    path("models/<path:name>/wake", home.wake, name="model-wake"),
    path("models/register/", register.page, name="register"),
    path("models/register/<int:id>/", register.one, name="register-one"),
    path("models/register/<int:id>/fragments/candidate", register.one_fragment, name="register-fragment"),
    path("models/register/<int:id>/again", register.again, name="register-again"),
    path("models/register/<int:id>/test", register.test, name="register-test"),
    path("models/register/<int:id>/approve", register.approve, name="register-approve"),
    path("playground/", playground.page, name="playground"),
    path("playground/token", playground.token, name="playground-token"),
    path("requests/", requests.page, name="requests"),
    path("requests/fragments/list", requests.fragment, name="requests-fragment"),
    path("requests/<uuid:id>/", requests.one, name="request"),
    path("requests/<uuid:id>/cancel", requests.cancel, name="request-cancel"),
    path("requests/<uuid:id>/fragments/request", requests.one_fragment, name="request-fragment"),
    path("batches/", batches.page, name="batches"),
    path("batches/fragments/list", batches.fragment, name="batches-fragment"),
    path("batches/<uuid:id>/", batches.one, name="batch"),
    path("batches/<uuid:id>/cancel", batches.cancel, name="batch-cancel"),
    path("batches/<uuid:id>/fragments/batch", batches.one_fragment, name="batch-fragment"),
    path("batches/<uuid:id>/input", batches.download, {"which": "input"}, name="batch-input"),
    path("batches/<uuid:id>/output", batches.download, {"which": "output"}, name="batch-output"),
    path("batches/<uuid:id>/errors", batches.download, {"which": "errors"}, name="batch-errors"),
    path("login/", LogIn.as_view(), name="login"),
    path("login/waiting/", sso.waiting, name="sso-waiting"),
    path("login/with/<str:provider_id>/", sso.start, name="sso"),
    # Under allauth's name: it is what it gives the identity provider.
    path("login/with/<str:provider_id>/callback/", sso.callback, name="openid_connect_callback"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("tokens/", tokens.page, name="tokens"),
    path("tokens/<int:id>/revoke", tokens.end, name="token-revoke"),
    path("projects/", projects.mine, name="projects"),
    path("projects/<slug:slug>/", projects.one, name="project"),
    path("projects/<slug:slug>/members/<int:id>", projects.change, name="project-member"),
    path("projects/<slug:slug>/tokens/<int:id>/revoke", projects.end_token, name="project-token"),
    path("help/", help.page, name="help"),
    path("now/", now.page, name="now"),
    path("now/fragments/now", now.fragment, name="now-fragment"),
    path("now/fragments/charts", now.charts_fragment, name="now-charts"),
    path("queue/", queue.page, name="queue"),
    path("queue/fragments/queue", queue.fragment, name="queue-fragment"),
    path("fleet/", fleet.page, name="fleet"),
    path("fleet/fragments/fleet", fleet.fragment, name="fleet-fragment"),
    path("fleet/decisions/", fleet.decided, name="fleet-decisions"),
    path("fleet/commands/", fleet.command, name="fleet-command"),
    path("fleet/pilots/<uuid:id>/", fleet.pilot, name="fleet-pilot"),
    path("fleet/pilots/<uuid:id>/fragments/pilot", fleet.pilot_fragment, name="fleet-pilot-fragment"),
]
