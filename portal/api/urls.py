"""Addresses of the native API."""

from __future__ import annotations

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal.api.fleet import Commands, Decisions, Fleet
from portal.api.models import Models, OneModel, Wake
from portal.api.requests import OneRequest, Requests
from portal.errors import ApiError


class Nothing(APIView):
    """An answer for any other address: programs get the envelope, not a page."""

    permission_classes = []
    authentication_classes = []
    schema = None

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        raise ApiError("not_found", detail=f"{request.path} is not an address of this API.")

    def get(self, request: Request) -> Response:
        raise ApiError("not_found")


app_name = "api"
urlpatterns = [
    path("requests", Requests.as_view(), name="requests"),
    path("requests/<uuid:id>", OneRequest.as_view(), name="request"),
    path("models", Models.as_view(), name="models"),
    path("models/<path:name>/wake", Wake.as_view(), name="wake"),
    path("models/<path:name>", OneModel.as_view(), name="model"),
    path("fleet", Fleet.as_view(), name="fleet"),
    path("commands", Commands.as_view(), name="commands"),
    path("decisions", Decisions.as_view(), name="decisions"),
    path("schema", SpectacularAPIView.as_view(permission_classes=[IsAuthenticated]), name="schema"),
    re_path(r"", Nothing.as_view()),
]
