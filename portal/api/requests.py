"""/api/v1/requests: hand in a request that nobody waits for, ask how it is, take it back."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal.acceptance import asked
from portal.accounts import members
from portal.accounts.models import ApiToken, Project
from portal.admission import quotas, reservations
from portal.admission.quotas import Subjects
from portal.api.pages import NewestFirst
from portal.api.serializers import RequestBrief, RequestDetail, Submission
from portal.catalog.models import Model
from portal.config import config
from portal.db.connections import plain
from portal.errors import ApiError
from portal.ledger import transitions
from portal.ledger.models import Request as Row
from portal.ledger.states import Lane, RequestState
from portal.policy.estimate import tokens
from portal.redis import hints
from portal.services import access, request_story
from portal.services.access import INFERENCE, READ, HasScope, caller


class Requests(APIView):
    permission_classes = [IsAuthenticated, HasScope]
    scopes = {"POST": (INFERENCE,), "GET": (READ, INFERENCE)}
    pagination_class = NewestFirst

    @extend_schema(request=Submission, responses={202: RequestDetail})
    def post(self, request: Request) -> Response:
        """Queue a request and answer at once; its result is found at the address in `Location`."""
        said = Submission(data=request.data)
        said.is_valid(raise_exception=True)
        project = access.project_to_charge(request, said.validated_data["project"])
        model = access.model_for(said.validated_data["model"], [project])
        body = engine_body(said.validated_data["api"], said.validated_data["body"], model)
        priority = said.validated_data["priority"]
        if priority is None:
            priority = members.priority(caller(request), project)
        row = self._accept(request, project, model, said.validated_data["api"], body, priority)
        return Response(
            RequestDetail(request_story.detail(row, with_result=True)).data,
            status.HTTP_202_ACCEPTED,
            headers={"Location": reverse("api:request", args=[row.id]), "x-request-id": str(row.id)},
        )

    def _accept(
        self, request: Request, project: Project, model: Model, api: str, body: bytes, priority: int
    ) -> Row:
        now = timezone.now()
        new = transitions.NewRequest(
            id=uuid.uuid4(),
            pool=model.pool_id,
            model=model.name,
            project_id=project.pk,
            user_id=caller(request).pk,
            token_id=request.auth.pk if isinstance(request.auth, ApiToken) else None,
            api=api,
            stream=False,
            lane=Lane.ASYNC,
            priority=priority,
            order_key=0.0,
            holder=None,
            accepted_at=now,
            body=body,
        )
        with transaction.atomic(), connection.cursor() as cur:
            cost = tokens(body)
            state = quotas.enter(Subjects(new.token_id, new.user_id, project.pk, model.name), new.id, cost)
            (key,) = reservations.reserve(
                plain(cur), new.pool, new.lane, project.pk, [cost / project.weight], priority
            )
            transitions.accept(plain(cur), [replace(new, order_key=key, state=state)])
        # After the commit: a pilot that asks because of this must find the row.
        if state == RequestState.QUEUED:
            hints.rows_waiting(model.pool_id)
        return Row.objects.get(id=new.id)

    @extend_schema(
        responses=RequestBrief(many=True),
        parameters=[
            OpenApiParameter("state", enum=[*map(str, RequestState)]),
            OpenApiParameter("model", OpenApiTypes.STR),
        ],
    )
    def get(self, request: Request) -> Response:
        """List the caller's own requests, newest first."""
        pages = self.pagination_class()
        rows = pages.paginate_queryset(self._filtered(request), request, self) or []
        return pages.get_paginated_response(
            RequestBrief([request_story.brief(row) for row in rows], many=True).data
        )

    def _filtered(self, request: Request) -> QuerySet[Row]:
        rows = Row.objects.filter(user_id=caller(request).pk)
        if isinstance(request.auth, ApiToken):
            rows = rows.filter(project_id=request.auth.project_id)
        if state := request.query_params.get("state"):
            if state not in list(RequestState):
                known = ", ".join(RequestState)
                raise ApiError("invalid_parameter", detail=f"state is one of: {known}.", param="state")
            rows = rows.filter(state=state)
        if model := request.query_params.get("model"):
            rows = rows.filter(model=model)
        return rows


class OneRequest(APIView):
    permission_classes = [IsAuthenticated, HasScope]
    scopes = {"GET": (READ, INFERENCE), "DELETE": (INFERENCE,)}

    @extend_schema(responses=RequestDetail)
    def get(self, request: Request, id: uuid.UUID) -> Response:
        """State, place in the queue, timeline and, for its owner while it is kept, the result."""
        row = visible(request, id)
        return self._told(request, row)

    @extend_schema(responses={200: RequestDetail})
    def delete(self, request: Request, id: uuid.UUID) -> Response:
        """Cancel a request, also while it runs. Answer 409 if it had ended before."""
        row = visible(request, id)
        who = "its owner" if access.is_owner(request, row) else f"{caller(request).username}"
        moved = cancel(row, f"cancelled by {who}")
        row.refresh_from_db()
        if not moved:
            raise ApiError("conflict", detail=f"The request had ended already: it is {row.state}.")
        return self._told(request, row)

    def _told(self, request: Request, row: Row) -> Response:
        return Response(
            RequestDetail(request_story.detail(row, with_result=access.is_owner(request, row))).data
        )


def visible(request: Request, id: uuid.UUID) -> Row:
    """Return the row, or raise the same error for one that does not exist and one that is not the caller's
    to see."""
    row = Row.objects.filter(id=id).first()
    if row is None or not access.sees_metadata(request, row):
        raise ApiError("request_not_found")
    return row


def cancel(row: Row, reason: str) -> bool:
    """Cancel a request and tell whoever runs it. Return False if it had ended before."""
    with transaction.atomic(), connection.cursor() as cur:
        moved = transitions.cancel(plain(cur), [row.id], timezone.now(), reason)
    for gone in moved:
        # A gateway hears it now; a pilot with its next sync.
        if row.lane == Lane.HELD and gone.holder:
            hints.cancelled(gone.holder, gone.id, gone.attempt)
    with connection.cursor() as cur:
        reservations.give_back(plain(cur), [gone.id for gone in moved])
    return bool(moved)


def engine_body(api: str, body: dict[str, Any], model: Model) -> bytes:
    """Return what the engine will be sent: checked as the gateway checks it, never streaming. Raise
    ApiError."""
    if body.get("model", model.name) != model.name:
        raise ApiError(
            "invalid_parameter", detail="body.model is not the request's model.", param="body.model"
        )
    if body.get("stream"):
        raise ApiError(
            "invalid_parameter", detail="Nobody listens: body.stream must be false.", param="body.stream"
        )
    whole = {**body, "model": model.name}
    for name in ("stream", "stream_options"):
        whole.pop(name, None)
    text = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > config().max_body_bytes:
        raise ApiError("body_too_large", detail=str(config().max_body_bytes))
    return asked.read(api, text).body
