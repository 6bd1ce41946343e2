"""The pages of batches: a file handed in, what is wrong with it by line, progress, downloads, cancel; and for whom."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Membership
from portal.dashboard.progress import WIDTH, progress
from portal.ledger.models import Batch, File, Request
from tests.api.batch_world import batch_row, file_row, text
from tests.api.batch_world import folder as folder
from tests.api.batch_world import woken as woken
from tests.api.world import World, request_row

OTHERS = ("mate", "manager", "outsider", "operator")


def listed(page: str) -> list[str]:
    return re.findall(r'href="/batches/([0-9a-f-]{36})/"', page)


# Handing in


# Who sees what


def test_only_its_owner_sees_a_batch_and_its_files(world: World) -> None:
    batch = batch_row(world, output_file=file_row(world))
    for path in ("/batches/", "/batches/fragments/list"):
        assert listed(text(world.owner.browser, path)) == [str(batch.pk)]
        assert [listed(text(getattr(world, who).browser, path)) for who in OTHERS] == [[]] * 4
    one = f"/batches/{batch.pk}/"
    for path in (one, one + "fragments/batch", one + "input", one + "output"):
        assert world.owner.browser.get(path).status_code == 200
        assert [getattr(world, who).browser.get(path).status_code for who in OTHERS] == [404] * 4
        assert Client().get(path)["Location"] == f"/login/?next={path}"
    assert [getattr(world, who).browser.post(one + "cancel").status_code for who in OTHERS] == [404] * 4
    batch.refresh_from_db()
    assert batch.state == "in_progress"


def test_who_left_the_project_sees_its_batches_no_more_as_with_a_token(world: World) -> None:
    batch = batch_row(world)
    Membership.objects.filter(user=world.owner.user).delete()
    assert listed(text(world.owner.browser, "/batches/")) == []
    text(world.owner.browser, f"/batches/{batch.pk}/", 404)


# The list and one of them


def test_the_list_is_newest_first_and_goes_on(world: World) -> None:
    now, file = timezone.now(), file_row(world)
    rows = [batch_row(world, created_at=now - timedelta(minutes=i), input_file=file) for i in range(53)]
    page = text(world.owner.browser, "/batches/")
    assert listed(page) == [str(row.pk) for row in rows[:50]]
    older = re.search(r'href="(/batches/\?before=[^"]+)"', page)
    assert older and listed(text(world.owner.browser, older[1])) == [str(row.pk) for row in rows[50:]]
    assert listed(text(world.owner.browser, f"/batches/?before={uuid4()}")) == []
    text(world.owner.browser, "/batches/?before=x", 404)


def test_the_number_of_queries_does_not_grow(world: World) -> None:
    browser = world.owner.browser
    counts = []
    for more in (1, 7):
        for _ in range(more):
            batch_row(world, output_file=file_row(world))
        with CaptureQueriesContext(
            connection,
        ) as asked:
            text(browser, "/batches/")
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_what_is_wrong_is_told_by_its_line(world: World) -> None:
    errors = [
        {"line": 3, "code": "invalid_json_line", "message": "The line is not <JSON>.", "param": None},
        {"line": None, "code": "too_many_lines", "message": "A batch has at most 3 lines.", "param": None},
    ]
    page = text(world.owner.browser, f"/batches/{batch_row(world, 'failed', errors=errors).pk}/")
    assert "Nothing was run." in page and "The line is not &lt;JSON&gt;." in page
    assert re.findall(r'data-label="Line">([^<]+)<', page) == ["3", "the file"]
    assert "2 invalid lines" in text(world.owner.browser, "/batches/")


def test_the_bar_shows_how_lines_ended(world: World) -> None:
    row = Batch(total=1000, completed=500, failed=1, cancelled=0, expired=249)
    parts = progress(row)
    assert [(part.name, part.lines) for part in parts] == [
        ("completed", 500),
        ("failed", 1),
        ("expired", 249),
    ]
    assert parts[0].width == WIDTH / 2 and parts[1].width == 4.0, "one among many is seen"
    full = progress(Batch(total=1000, completed=999, failed=1))
    assert sum(part.width for part in full) <= WIDTH
    assert progress(Batch(total=0)) == []
    batch = batch_row(world, total=4, completed=2, failed=1)
    page = text(world.owner.browser, f"/batches/{batch.pk}/")
    assert 'aria-label="2 completed, 1 failed, 1 not run yet"' in page
    assert "2 of 4, 1 failed" in text(world.owner.browser, "/batches/")


def test_one_that_waits_says_for_what(world: World) -> None:
    batch = batch_row(world, total=2)
    for number, state in ((1, "queued"), (2, "parked")):
        request_row(world, state, lane="batch", batch_id=batch.pk, batch_line=number)
    page = text(world.owner.browser, f"/batches/{batch.pk}/")
    assert "Waiting for <code>surf</code>" in page and "Some requests are parked" in page
    Request.objects.update(state="queued")
    assert "Some requests are parked" not in text(world.owner.browser, f"/batches/{batch.pk}/")


def test_the_page_stops_asking_once_it_has_ended(world: World) -> None:
    batch = batch_row(world)
    one, browser = f"/batches/{batch.pk}/", world.owner.browser
    assert "hx-get" in text(browser, one)
    answer = browser.get(one + "fragments/batch")
    again = browser.get(one + "fragments/batch", headers={"If-None-Match": answer["ETag"]})
    assert (answer.status_code, again.status_code, again.content) == (200, 304, b"")
    Batch.objects.update(state="completed", ended_at=timezone.now())
    assert browser.get(one + "fragments/batch").status_code == 286
    assert "hx-get" not in text(browser, one)


# Downloads and cancel


def test_what_is_written_so_far_can_be_downloaded(world: World) -> None:
    content = b'{"a": 1}\n{"b": 2}\n{"half'
    output = file_row(world, content, bytes=18, name="batch_output.jsonl", purpose="batch_output")
    batch = batch_row(world, output_file=output)
    answer: Any = world.owner.browser.get(f"/batches/{batch.pk}/output")
    assert answer["Content-Disposition"] == 'attachment; filename="batch_output.jsonl"'
    assert (answer["Content-Length"], answer["Cache-Control"].split(",")[0]) == ("18", "max-age=0")

    async def whole() -> bytes:
        return b"".join([part async for part in answer.streaming_content])

    assert asyncio.run(whole()) == content[:18]
    text(world.owner.browser, f"/batches/{batch.pk}/errors", 404)
    File.objects.filter(pk=output.pk).update(erased_at=timezone.now(), name="")
    text(world.owner.browser, f"/batches/{batch.pk}/output", 404)
    assert "deleted" in text(world.owner.browser, f"/batches/{batch.pk}/")


def test_a_live_one_is_cancelled_and_an_ended_one_is_not(world: World, woken: list[str]) -> None:
    live, over = batch_row(world), batch_row(world, "completed")
    browser = world.owner.browser
    assert "is being cancelled" in browser.post(f"/batches/{live.pk}/cancel", follow=True).content.decode()
    live.refresh_from_db()
    assert live.state == "cancelling" and woken == ["scheduler.batches"]
    answer = browser.post(f"/batches/{over.pk}/cancel", follow=True).content.decode()
    assert "is completed and can no longer be cancelled" in answer
    over.refresh_from_db()
    assert over.state == "completed"
    assert browser.get(f"/batches/{live.pk}/cancel").status_code == 405
