"""Handing in a file on the page of batches: a batch as the API makes it, or why not, and from this site only."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from portal.config import config
from portal.ledger.models import Batch, File
from tests.api.batch_world import CONTENT, form, text
from tests.api.batch_world import folder as folder
from tests.api.batch_world import woken as woken
from tests.api.world import CHAT, World


def test_a_file_that_is_handed_in_is_a_batch_as_the_api_makes_it(
    world: World, woken: list[str], folder: Path
) -> None:
    answer = world.owner.browser.post("/batches/", form(completion_window="7d"))
    batch = Batch.objects.get()
    assert answer["Location"] == f"/batches/{batch.pk}/"
    assert (batch.user_id, batch.project_id, batch.token_id) == (
        world.owner.user.pk,
        world.project.pk,
        None,
    )
    assert (batch.state, batch.endpoint, batch.completion_window) == ("validating", CHAT, "7d")
    assert batch.expires_at - batch.created_at == timedelta(days=7)
    file = batch.input_file
    assert (file.name, file.bytes, file.purpose) == ("in.jsonl", len(CONTENT), "batch")
    assert (file.user_id, file.project_id) == (batch.user_id, batch.project_id)
    assert [path.name for path in folder.iterdir()] == [str(file.pk)]
    assert (folder / str(file.pk)).read_bytes() == CONTENT
    assert woken == ["scheduler.batches"]
    assert "The lines are being validated" in text(world.owner.browser, f"/batches/{batch.pk}/")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file": ""}, "This field is required."),
        ({"file": SimpleUploadedFile("in.jsonl", b"")}, "The submitted file is empty."),
        ({"project": "storms"}, "Select a valid choice."),
        ({"endpoint": "/v1/audio"}, "Select a valid choice."),
        ({"completion_window": "1y"}, "Select a valid choice."),
        ({"file": SimpleUploadedFile("in.jsonl", b"x" * 2000)}, "larger than 1000 bytes"),
    ],
)
def test_a_form_that_is_refused_says_why_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, folder: Path, changes: dict[str, Any], says: str
) -> None:
    import dataclasses

    from portal.dashboard import upload

    tight = dataclasses.replace(config(), max_file_bytes=1000)
    monkeypatch.setattr(upload, "config", lambda: tight)
    answer = world.owner.browser.post("/batches/", form(**changes))
    assert answer.status_code == 422 and says in answer.content.decode()
    assert not Batch.objects.exists() and not File.objects.exists()
    assert not folder.exists() or list(folder.iterdir()) == []


def test_another_site_cannot_hand_in_a_file(world: World, folder: Path) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(world.owner.user)
    assert browser.post("/batches/", form()).status_code == 403
    page = text(browser, "/batches/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token
    assert browser.post("/batches/", form(csrfmiddlewaretoken="x" * 64)).status_code == 403
    assert not Batch.objects.exists() and (not folder.exists() or list(folder.iterdir()) == [])
    sent = form(csrfmiddlewaretoken=token[1])
    assert browser.post("/batches/", sent).status_code == 302


def test_a_name_is_a_text_and_no_path(world: World, folder: Path) -> None:
    file = SimpleUploadedFile("x.jsonl", CONTENT)
    file._name = "../../<b>etc\x07.jsonl"  # type: ignore[attr-defined]
    world.owner.browser.post("/batches/", form(file=file))
    row = File.objects.get()
    assert "/" not in row.name and "\x07" not in row.name
    assert "&lt;b&gt;etc" in text(world.owner.browser, "/batches/")
    assert [path.name for path in folder.iterdir()] == [str(row.pk)]
