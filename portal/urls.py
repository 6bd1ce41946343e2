"""Addresses that Django serves; the data plane and the worker API stand beside it, in `portal.asgi`."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

admin.site.site_header = "Berth administration"
admin.site.site_title = "Berth"
admin.site.index_title = "Tables"

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/", include("portal.api.urls")),
    path("admin/", admin.site.urls),
    path("", include("portal.dashboard.urls")),
]
