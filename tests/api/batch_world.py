"""A person's files and batches, as the API leaves them, and the folder of their contents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from portal.config import config
from portal.ledger.models import Batch, File
from portal.redis import hints
from tests.api.world import CHAT, World

CONTENT = b'{"custom_id": "a"}\n'


@pytest.fixture(autouse=True)
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the tasks that were asked for."""
    heard: list[str] = []
    monkeypatch.setattr(hints, "_send", heard.append)
    return heard


@pytest.fixture(autouse=True)
def folder() -> Iterator[Path]:
    """Give a folder for files, with none from another test."""
    folder = config().files_dir
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def file_row(world: World, content: bytes = CONTENT, **fields: Any) -> File:
    now = timezone.now()
    facts: dict[str, Any] = {
        "project_id": world.project.pk,
        "user_id": world.owner.user.pk,
        "purpose": "batch",
        "name": "in.jsonl",
        "bytes": len(content),
        "created_at": now,
        "expires_at": now + timedelta(days=30),
    }
    row = File.objects.create(**(facts | fields))
    config().files_dir.mkdir(parents=True, exist_ok=True)
    (config().files_dir / str(row.pk)).write_bytes(content)
    return row


def batch_row(world: World, state: str = "in_progress", **fields: Any) -> Batch:
    now = timezone.now()
    facts: dict[str, Any] = {
        "project_id": world.project.pk,
        "user_id": world.owner.user.pk,
        "state": state,
        "endpoint": CHAT,
        "created_at": now,
        "expires_at": now + timedelta(hours=24),
        "ended_at": now if state in ("failed", "completed", "expired", "cancelled") else None,
    }
    if "input_file" not in fields:
        fields["input_file"] = file_row(world)
    return Batch.objects.create(**(facts | fields))


def text(client: Client, path: str, status: int = 200) -> str:
    """Return the page's HTML on one line, with single spaces, as a browser reads it."""
    answer = client.get(path)
    assert answer.status_code == status, (path, answer.status_code)
    return " ".join(str(answer.content.decode()).split())


def form(**changes: Any) -> dict[str, Any]:
    file = SimpleUploadedFile("in.jsonl", CONTENT)
    return {"project": "waves", "endpoint": CHAT, "completion_window": "24h", "file": file} | changes
