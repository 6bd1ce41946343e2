"""/api/v1/{fleet,commands,decisions}: what operators see of the fleet and ask of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal.api.pages import LastFirst
from portal.api.permissions import HasScope, IsOperator
from portal.api.serializers import CommandIn, CommandOut, DecisionOut, FleetOut
from portal.fleet.models import Cluster, Command
from portal.services.access import FLEET, caller
from portal.services.cluster_state import cluster_health, unknown_jobs
from portal.services.commands import NewCommand, give
from portal.services.decision_search import FILTERS, decisions
from portal.services.recent_pilots import recent_pilots

MOST_PILOTS = 500


class Fleet(APIView):
    permission_classes = [IsAuthenticated, HasScope, IsOperator]
    scopes = {"GET": (FLEET,)}

    @extend_schema(responses=FleetOut)
    def get(self, request: Request) -> Response:
        """List clusters, live pilots and those that ended within the last hour, with their replicas."""
        now = timezone.now()
        clusters = [told(row, now) for row in Cluster.objects.order_by("name").prefetch_related("ways")]
        return Response(FleetOut({"clusters": clusters, "pilots": recent_pilots(now)[:MOST_PILOTS]}).data)


class Commands(APIView):
    permission_classes = [IsAuthenticated, HasScope, IsOperator]
    scopes = {"GET": (FLEET,), "POST": (FLEET,)}
    pagination_class = LastFirst

    @extend_schema(request=CommandIn, responses={202: CommandOut})
    def post(self, request: Request) -> Response:
        """Write a command; the control loop carries it out at its next tick and reports in `state` and
        `result`."""
        said = CommandIn(data=request.data)
        said.is_valid(raise_exception=True)
        command = give(NewCommand(**said.validated_data), caller(request))
        return Response(CommandOut(command).data, status.HTTP_202_ACCEPTED)

    @extend_schema(responses=CommandOut(many=True))
    def get(self, request: Request) -> Response:
        """List commands, newest first."""
        pages = self.pagination_class()
        rows = Command.objects.select_related("created_by")
        page = pages.paginate_queryset(rows, request, self)
        return pages.get_paginated_response(CommandOut(page or [], many=True).data)


class Decisions(APIView):
    permission_classes = [IsAuthenticated, HasScope, IsOperator]
    scopes = {"GET": (FLEET,)}
    pagination_class = LastFirst

    @extend_schema(
        responses=DecisionOut(many=True),
        parameters=[
            OpenApiParameter(name, OpenApiTypes.STR, description=text) for name, text in FILTERS.items()
        ],
    )
    def get(self, request: Request) -> Response:
        """List what the loop did and why, newest first."""
        pages = self.pagination_class()
        rows = decisions(request.query_params.dict(), timezone.now())
        return pages.get_paginated_response(
            DecisionOut(pages.paginate_queryset(rows, request, self) or [], many=True).data
        )


def told(cluster: Cluster, now: datetime) -> dict[str, Any]:
    """Describe a cluster; `tried_at` and `answered_at` are those of the way that has waited longest."""
    stands = cluster_health(cluster, now)
    tried = [way.tried_at for way in stands.ways]
    answered = [way.answered_at for way in stands.ways]
    return {
        "name": cluster.name,
        "paused": cluster.paused,
        "tried_at": min((at for at in tried if at is not None), default=None) if all(tried) else None,
        "answered_at": min((at for at in answered if at is not None), default=None)
        if all(answered)
        else None,
        "ticked_at": cluster.ticked_at,
        "unknown_jobs": unknown_jobs(cluster),
        **asdict(stands),
    }
