"""Whatever a view raised → the one error envelope, with codes of `portal.errors`."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, ValidationError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import APIView, set_rollback

from portal.config import config
from portal.errors import ApiError

logger = logging.getLogger(__name__)


def handler(exc: Exception, context: dict[str, Any]) -> Response:
    """Answer an exception: DRF's EXCEPTION_HANDLER.

    What is nobody's fault but ours is logged with the id that the caller is told.
    """
    error = as_api_error(exc)
    if isinstance(exc, exceptions.MethodNotAllowed):
        error = ApiError("method_not_allowed", detail=_methods(context["view"]))
    request_id = str(uuid.uuid4())
    if error.status >= 500:
        logger.error("request %s failed", request_id, exc_info=exc)
    set_rollback()
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.envelope(request_id), error.status, headers=headers | {"x-request-id": request_id})


def as_api_error(exc: Exception) -> ApiError:
    match exc:
        case ApiError():
            return exc
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return ApiError("token_missing")
        case exceptions.PermissionDenied() | PermissionDenied():
            return ApiError("forbidden", detail=_text(getattr(exc, "detail", "")))
        case exceptions.NotFound() | Http404():
            return ApiError("not_found")
        case RequestDataTooBig():
            return ApiError("body_too_large", detail=str(config().max_body_bytes))
        case exceptions.ParseError():
            return ApiError("invalid_json", detail=_text(exc.detail))
        case exceptions.ValidationError():
            param, text = _first(exc.detail)
            return ApiError("invalid_parameter", detail=text, param=param)
        case ValidationError():
            param, text = _first(getattr(exc, "message_dict", exc.messages))
            return ApiError("invalid_parameter", detail=text, param=param)
        case exceptions.APIException():
            client = exc.status_code < 500
            return ApiError(
                "invalid_parameter" if client else "internal",
                detail=_text(exc.detail),
                status=exc.status_code,
            )
    return ApiError("internal")


def _methods(view: APIView) -> str:
    return " or ".join(method for method in view.allowed_methods if method != "OPTIONS")


def _first(detail: Any, param: str | None = None) -> tuple[str | None, str]:
    """Return the first complaint in DRF's or Django's nested lists and dicts, with the path to its field."""
    if isinstance(detail, dict) and detail:
        name, inner = next(iter(detail.items()))
        if name not in ("non_field_errors", "__all__"):
            param = f"{param}.{name}" if param else str(name)
        return _first(inner, param)
    if isinstance(detail, list) and detail:
        return _first(detail[0], param)
    return param, _text(detail)


def _text(detail: Any) -> str:
    return str(detail) if detail else ""
