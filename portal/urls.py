"""Addresses that Django serves; the data plane and the worker API stand beside it, in `portal.asgi`."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

admin.site.site_header = "Berth administration"
admin.site.site_title = "Berth"
admin.site.index_title = "Tables"
admin.site.site_url = None  # our own template has the way back

handler403 = "portal.dashboard.errors.not_allowed"
handler404 = "portal.dashboard.errors.not_found"

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/", include("portal.api.urls")),
    path("admin/login/", RedirectView.as_view(pattern_name="login", query_string=True)),
    path("admin/", admin.site.urls),
    # Browsers ask for it on pages that name no icon, e.g. the admin's.
    path("favicon.ico", RedirectView.as_view(url=static("icon.svg"))),
    path("", include("portal.dashboard.urls")),
]
