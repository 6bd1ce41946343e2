"""A request body → JSON, refused before it is read when it is too large, and after when it is not an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from portal.config import config
from portal.errors import ApiError


class ObjectParser(JSONParser):
    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        limit = config().max_body_bytes
        declared = (parser_context or {})["request"].META.get("CONTENT_LENGTH") or "0"
        if declared.isdigit() and int(declared) > limit:
            raise ApiError("body_too_large", detail=str(limit))
        try:
            read = super().parse(stream, media_type, dict(parser_context or {}))
        except RecursionError:
            raise ParseError("nested too deeply") from None
        except UnicodeDecodeError:
            raise ParseError("not UTF-8") from None
        if not isinstance(read, dict):
            raise ParseError(f"it is a {type(read).__name__}")
        return read
