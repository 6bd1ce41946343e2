"""/api/v1/models: what the caller may use and how ready it is, and the wish to have one ready."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal.api.permissions import HasScope
from portal.api.serializers import CommandOut, ModelList, ModelOut, WakeIn
from portal.catalog.models import Model
from portal.fleet.models import Command
from portal.fleet.residency import Shown, residency
from portal.notices import wishes
from portal.services import access
from portal.services.access import INFERENCE, READ, caller
from portal.services.commands import NewCommand, give


class Models(APIView):
    permission_classes = [IsAuthenticated, HasScope]
    scopes = {"GET": (READ, INFERENCE)}

    @extend_schema(responses=ModelList)
    def get(self, request: Request) -> Response:
        """List the models that the caller may use, each with its residency, an estimate and the reason."""
        mine = access.usable_models(access.projects(request))
        rows = Model.objects.filter(mine).distinct().order_by("name")
        return Response(ModelList({"results": [told(shown) for shown in residency(rows)]}).data)


class OneModel(APIView):
    permission_classes = [IsAuthenticated, HasScope]
    scopes = {"GET": (READ, INFERENCE)}

    @extend_schema(operation_id="model_retrieve", responses=ModelOut)
    def get(self, request: Request, name: str) -> Response:
        """Return one model: why it does not run yet, and when it will, with the parts of the estimate."""
        (shown,) = residency([access.model_for(name, access.projects(request))])
        return Response(ModelOut(told(shown)).data)


class Wake(APIView):
    permission_classes = [IsAuthenticated, HasScope]
    scopes = {"POST": (INFERENCE,)}

    @extend_schema(request=WakeIn, responses={202: CommandOut})
    def post(self, request: Request, name: str) -> Response:
        """Ask for the model to be made ready. A wish that still waits is not written twice."""
        model = access.model_for(name, access.projects(request))
        said = WakeIn(data=request.data)
        said.is_valid(raise_exception=True)
        command = give(NewCommand(Command.Kind.WAKE, pool=model.pool), caller(request))
        if said.validated_data["notify"]:
            wishes.wish(caller(request), model.name)
        return Response(CommandOut(command).data, status.HTTP_202_ACCEPTED)


def told(shown: Shown) -> dict[str, Any]:
    return {
        "name": shown.model.name,
        "kind": shown.model.kind,
        "context_tokens": shown.model.context_tokens,
        "description": shown.model.description,
        "phase": asdict(shown.phase),
    }
