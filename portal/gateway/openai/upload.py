"""A multipart/form-data body as it comes → a draft on disk and a few short fields, never the whole in memory.

Separate from what an upload means: it knows forms, and nothing of batches.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from portal.batches.intake import Draft
from portal.errors import ApiError
from portal.http.bodies import FORM_BYTES
from portal.http.exchange import Exchange

_FIELD_BYTES = 4096
_WRITE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """A form that has been read. `name`: as the sender calls it, None when the form held no file."""

    name: str | None
    fields: dict[str, str]


@dataclass(slots=True)
class _Form:
    """The state of the parser. `unwritten` holds the file's bytes until they go to the disk."""

    unwritten: list[bytes] = field(default_factory=list)
    waiting: int = 0
    name: str | None = None
    fields: dict[str, bytearray] = field(default_factory=dict)
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    disposition: str = ""
    in_file: bool = False
    current: str = ""
    over: bool = False

    def parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._part,
                "on_header_field": lambda data, start, end: self.header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self.value.extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def _part(self) -> None:
        self.disposition, self.in_file, self.current = "", False, ""

    def _header_end(self) -> None:
        if bytes(self.header).lower() == b"content-disposition":
            self.disposition = self.value.decode("latin-1")
        self.header.clear()
        self.value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.current = options.get(b"name", b"").decode("latin-1")
        if self.current == "file":
            if self.name is not None:
                raise _wrong("the form holds more than one file")
            self.in_file = True
            self.name = options.get(b"filename", b"").decode("utf-8", "replace")
        elif len(self.fields) >= 20:
            raise _wrong("the form holds too many fields")
        else:
            self.fields.setdefault(self.current, bytearray())

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self.in_file:
            self.unwritten.append(data[start:end])
            self.waiting += end - start
            return
        value = self.fields[self.current]
        if len(value) + end - start > _FIELD_BYTES:
            raise _wrong(f"the field '{self.current[:40]}' is too long")
        value.extend(data[start:end])

    def _end(self) -> None:
        self.over = True


async def receive(ex: Exchange, draft: Draft, most: int) -> Received:
    """Write the form's file to the draft. Raises ApiError, Gone, OSError; the draft is the caller's to discard."""
    kind, options = parse_options_header(ex.header(b"content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise _wrong("it is not multipart/form-data")
    form = _Form()
    try:
        parser = form.parser(options[b"boundary"])
        async for part in ex.parts(most + FORM_BYTES):
            parser.write(part)
            if form.waiting >= _WRITE_BYTES:
                await _write(draft, form)
    except FormParserError:
        raise _wrong("it cannot be parsed") from None
    if not form.over:
        raise _wrong("it ends too early")
    await _write(draft, form)
    fields = {name: value.decode("utf-8", "replace") for name, value in form.fields.items()}
    return Received(form.name, fields)


async def _write(draft: Draft, form: _Form) -> None:
    parts, form.unwritten, form.waiting = form.unwritten, [], 0
    await asyncio.to_thread(draft.write, b"".join(parts))


def _wrong(what: str) -> ApiError:
    return ApiError(
        "invalid_parameter", detail=f"The body is not a form that can be read: {what}.", param="file"
    )
