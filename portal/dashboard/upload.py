"""A form's file as it comes → a draft where the files of batches lie. Of a form that is refused nothing is left.

Separate from the page: Django asks an upload handler before there is a view that could look.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, SkipFile, StopUpload
from django.http import HttpRequest

from portal.batches.contents import Contents
from portal.batches.intake import Draft
from portal.config import config
from portal.errors import ApiError

FIELD = "file"


class Arrived(UploadedFile[bytes]):
    """A file as a form finds it in its field; its content is in the draft."""

    def __init__(self, draft: Draft, name: str) -> None:
        super().__init__(file=io.BytesIO(), name=name, size=draft.bytes)
        self.draft = draft


class IntoDraft(FileUploadHandler):
    """Take the one file of the form. `refused`: why it was not read to its end. `kept`: set by the view, once the
    file's row is."""

    chunk_size = 1 << 20

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(request)
        self.draft: Draft | None = None
        self.refused: ApiError | None = None
        self.kept = False

    def new_file(self, *said: Any, **more: Any) -> None:
        super().new_file(*said, **more)
        if self.field_name != FIELD or self.draft is not None:
            raise SkipFile
        self.draft = Draft(Contents(config().files_dir), uuid4(), config().max_file_bytes)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self.draft is not None
        try:
            self.draft.write(raw_data)
        except ApiError as refusal:
            self.refused = refusal
            raise StopUpload(connection_reset=False) from None

    def file_complete(self, file_size: int) -> Arrived | None:
        return Arrived(self.draft, str(self.file_name)) if self.draft is not None else None


@contextmanager
def into_draft(request: HttpRequest) -> Iterator[IntoDraft]:
    """Give the request this handler, before anybody has read its form. A draft that is not `kept` is discarded."""
    handler = IntoDraft(request)
    request.upload_handlers = [handler]
    try:
        yield handler
    finally:
        if handler.draft is not None and not handler.kept:
            handler.draft.discard()
