"""A request body → a JSON object. Its size is limited by Django before it comes here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


class ObjectParser(JSONParser):
    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            read = super().parse(stream, media_type, dict(parser_context or {}))
        except RecursionError:
            raise ParseError("nested too deeply") from None
        except UnicodeDecodeError:
            raise ParseError("not UTF-8") from None
        if not isinstance(read, dict):
            raise ParseError(f"it is a {type(read).__name__}")
        return read
