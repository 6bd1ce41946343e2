"""/api/v1/requests: hand in a request that nobody waits for, ask how it is, take it back."""

from __future__ import annotations

import json
import uuid
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

from portal.acceptance import inference_request
from portal.acceptance.inference_request import InferenceRequest
from portal.acceptance.submission import Submission, submit
from portal.accounts.callers import read_principal
from portal.accounts.models import ApiToken, Project
from portal.api.pages import NewestFirst
from portal.api.permissions import HasScope
from portal.api.serializers import RequestBrief, RequestDetail
from portal.api.serializers import Submission as SubmissionIn
from portal.config import config
from portal.db.connections import plain
from portal.errors import ApiError
from portal.ledger.models import Request as Row
from portal.ledger.states import RequestState
from portal.redis import hints
from portal.services import access, request_story
from portal.services.access import INFERENCE, READ, caller
from portal.services.cancellation import cancel


class Requests(APIView):
    permission_classes = [IsAuthenticated, HasScope]
    scopes = {"POST": (INFERENCE,), "GET": (READ, INFERENCE)}
    pagination_class = NewestFirst

    @extend_schema(request=Submission, responses={202: RequestDetail})
    def post(self, request: Request) -> Response:
        """Queue a request and answer at once; its result is found at the address in `Location`."""
        said = SubmissionIn(data=request.data)
        said.is_valid(raise_exception=True)
        project = access.project_to_charge(request, said.validated_data["project"])
        api, model = said.validated_data["api"], said.validated_data["model"]
        body = engine_body(api, said.validated_data["body"], model)
        row = _accept(request, project, inference_request.read(api, body), said.validated_data["priority"])
        return Response(
            RequestDetail(request_story.detail(row, with_result=True)).data,
            status.HTTP_202_ACCEPTED,
            headers={"Location": reverse("api:request", args=[row.id]), "x-request-id": str(row.id)},
        )

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
                raise ApiError("invalid_parameter", detail=f"state must be one of: {known}.", param="state")
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
            raise ApiError("conflict", detail=f"The request has already ended: it is {row.state}.")
        return self._told(request, row)

    def _told(self, request: Request, row: Row) -> Response:
        return Response(
            RequestDetail(request_story.detail(row, with_result=access.is_owner(request, row))).data
        )


def _accept(request: Request, project: Project, what: InferenceRequest, priority: int | None) -> Row:
    """Accept the request by the rule of all that nobody waits for, and wake those who run it. Raises ApiError."""
    token = request.auth.pk if isinstance(request.auth, ApiToken) else None
    with transaction.atomic(), connection.cursor() as django_cur:
        cur = plain(django_cur)
        principal = read_principal(cur, token, caller(request).pk, project.pk)
        new = submit(cur, Submission(uuid.uuid4(), principal, what, priority, timezone.now()))
    # After the commit: a pilot that asks because of this must find the row.
    if new.state == RequestState.QUEUED:
        hints.rows_waiting(new.pool)
    return Row.objects.get(id=new.id)


def visible(request: Request, id: uuid.UUID) -> Row:
    """Return the row, or raise the same error for one that does not exist and one that is not the caller's
    to see."""
    row = Row.objects.filter(id=id).first()
    if row is None or not access.sees_metadata(request, row):
        raise ApiError("request_not_found")
    return row


def engine_body(api: str, body: dict[str, Any], model: str) -> bytes:
    """Return what the engine will be sent: never streaming, for the request's own model. Raise ApiError."""
    if body.get("model", model) != model:
        raise ApiError(
            "invalid_parameter", detail="body.model is not the request's model.", param="body.model"
        )
    if body.get("stream"):
        raise ApiError(
            "invalid_parameter",
            detail="body.stream must be false: the result is fetched later.",
            param="body.stream",
        )
    whole = {**body, "model": model}
    for name in ("stream", "stream_options"):
        whole.pop(name, None)
    text = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > config().max_body_bytes:
        raise ApiError("body_too_large", detail=str(config().max_body_bytes))
    return text
