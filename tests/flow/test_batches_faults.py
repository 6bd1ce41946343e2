"""Batches when things go wrong: bad files, crashes at any point, cancellation, closed windows, other people."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gpuworker import wire
from portal.batches import expiry, output, transitions
from tests.flow.batch_world import (
    create,
    in_thread,
    jsonl,
    line,
    look,
    read,
    requests_of,
    run_some,
    sdk,
    state,
)
from tests.flow.dataplane import Plane
from tests.flow.pilot_client import seen
from tests.flow.test_workerapi_rows import _hot, _lease, _result, _send

ROOT = Path(__file__).resolve().parent.parent.parent


async def test_one_bad_line_and_nothing_is_queued(plane: Plane) -> None:
    bad = line("b", url="/v1/completions")
    batch = await create(plane, jsonl(line("a"), bad, b"\xff", line("a")))
    await look(plane)
    failed = await state(plane, batch.id)
    assert failed.status == "failed" and failed.failed_at and failed.errors and failed.errors.data
    assert [(error.line, error.code) for error in failed.errors.data] == [
        (2, "mismatched_url"),
        (3, "invalid_json_line"),
        (4, "duplicate_custom_id"),
    ]
    assert requests_of(plane) == {} and failed.output_file_id is None


async def test_a_model_of_somebody_else_cannot_be_used(plane: Plane) -> None:
    body = line("a")["body"] | {"model": "hidden"}
    batch = await create(plane, jsonl(line("a", body=body)))
    await look(plane)
    failed = await state(plane, batch.id)
    assert failed.errors and failed.errors.data and failed.errors.data[0].code == "model_not_found"


class Killed(BaseException):
    """The process dies here: nothing catches it."""


def _kill(*_: Any, **__: Any) -> None:
    raise Killed


# Imports as the Celery worker does, and dies in the middle of it.
IMPORT_AND_DIE = """
import os, signal, time
import django
django.setup()
from portal.config import config
from portal.batches import transitions
from portal.batches import passes as batches
reading, parts = transitions._CopySource.read, []
def read(self, size):
    parts.append(reading(self, 5000))
    if len(parts) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return parts[-1]
transitions._CopySource.read = read
batches.look(config(), time.time())
"""


async def test_an_import_that_is_killed_is_done_again_and_doubles_nothing(plane: Plane) -> None:
    batch = await create(plane, jsonl(*(line(str(i)) for i in range(300))))
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "BERTH_DATABASE_URL": plane.settings.database_url,
        "DJANGO_SETTINGS_MODULE": "portal.settings",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPORT_AND_DIE, env=env)
    assert await process.wait() == -signal.SIGKILL
    assert (requests_of(plane), (await state(plane, batch.id)).status) == ({}, "validating")
    await look(plane)
    await look(plane)
    assert plane.sql("SELECT count(*), count(DISTINCT batch_line) FROM ledger_request") == [(300, 300)]
    assert (await state(plane, batch.id)).status == "in_progress"


@pytest.mark.parametrize("at", ["open_files", "written", "finalize", "end"])
async def test_writing_that_is_killed_goes_on_and_doubles_nothing(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(*(line(str(i)) for i in range(8))))
    await look(plane)
    await run_some(pilot, replica)
    if at in ("written", "open_files"):
        await _killed_at(plane, monkeypatch, at)
        assert (await state(plane, batch.id)).output_file_id is None
        await look(plane)
    await run_some(pilot, replica)
    await _killed_at(plane, monkeypatch, at)
    partial = await state(plane, batch.id)
    assert partial.status == {"end": "finalizing"}.get(at, "in_progress")
    if at == "written":
        # Bytes lie in the file that no commit knows of: they are not shown.
        assert len(await read(plane, partial.output_file_id)) == 4
    await look(plane)
    done = await state(plane, batch.id)
    assert done.status == "completed"
    assert sorted(o["custom_id"] for o in await read(plane, done.output_file_id)) == list("01234567")


async def _killed_at(plane: Plane, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transitions, at, _kill)
        with pytest.raises(Killed):
            await look(plane)


async def test_one_batch_that_cannot_be_written_does_not_keep_the_others(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilot, replica = await _hot(plane)
    first, second = [await create(plane, jsonl(line(name))) for name in "ab"]
    await look(plane)
    await run_some(pilot, replica)
    appending = output._append

    def full(contents: Any, file: Any, length: int, ends: list[Any]) -> int:
        if any(end.custom_id == "a" for end in ends):
            raise OSError(28, "No space left on device")
        return appending(contents, file, length, ends)

    with monkeypatch.context() as patch:
        patch.setattr(output, "_append", full)
        await look(plane)
    assert [(await state(plane, b.id)).status for b in (first, second)] == ["in_progress", "completed"]
    await look(plane)
    assert (await state(plane, first.id)).status == "completed"


async def test_cancel_ends_what_waits_and_keeps_what_is_done(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(*(line(str(i)) for i in range(8))))
    await look(plane)
    await run_some(pilot, replica, room=2)
    running = await _lease(pilot, replica, room=2)
    async with sdk(plane) as client:
        cancelling = await client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling" and cancelling.cancelling_at
        await look(plane)
        # What runs may end.
        assert (await client.batches.retrieve(batch.id)).status == "cancelling"
        await _send(pilot, _result(running[0]))
        await look(plane, after_s=61)
        cancelled = await client.batches.cancel(batch.id)
    assert cancelled.status == "cancelled" and cancelled.cancelled_at
    output, errors = await read(plane, cancelled.output_file_id), await read(plane, cancelled.error_file_id)
    assert sorted(o["custom_id"] for o in output) == ["0", "1", "2"]
    assert sorted(o["custom_id"] for o in errors) == ["3", "4", "5", "6", "7"]
    assert {o["error"]["code"] for o in errors} == {"batch_cancelled"}
    # The pilot hears that nobody wants the last one.
    has = [_ref(row) for row in running]
    _, said = await pilot.sync(seen(replica), rows=has)
    assert [gone["request"] for gone in said["cancels"]] == [running[1]["request"]]


def _ref(row: dict[str, Any]) -> Any:
    return wire.RowRef(row["request"], row["attempt"])


async def test_a_batch_that_is_cancelled_before_its_import_never_queues(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await create(plane, jsonl(line("a")))
    async with sdk(plane) as client:
        await client.batches.cancel(first.id)
    await look(plane)
    # And one that is cancelled while it is read.
    second = await create(plane, jsonl(line("b")))
    begin = transitions.begin

    def cancelled_first(*args: Any) -> bool:
        plane.sql(
            "UPDATE ledger_batch SET state = 'cancelling', cancelling_at = now() WHERE state = 'validating'"
        )
        return begin(*args)

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "begin", cancelled_first)
        await look(plane)
    await look(plane)
    assert [(await state(plane, b.id)).status for b in (first, second)] == ["cancelled"] * 2
    assert requests_of(plane) == {}


async def test_a_cancelled_batch_gives_back_its_place(plane: Plane) -> None:
    """What its owner asks next stands where it would have stood without it, not behind a thousand lines of nothing."""
    big = await create(plane, jsonl(*(line(str(i)) for i in range(200))))
    await look(plane)
    keys = [key for (key,) in plane.sql("SELECT order_key FROM ledger_request ORDER BY order_key")]
    async with sdk(plane) as client:
        await client.batches.cancel(big.id)
    await look(plane)
    await create(plane, jsonl(line("next")))
    await look(plane)
    ((key,),) = plane.sql("SELECT order_key FROM ledger_request WHERE custom_id = 'next'")
    assert keys[0] <= key <= keys[1]


@pytest.mark.parametrize(("window", "days"), [("24h", 1), ("7d", 7), ("30d", 30)])
async def test_each_window_ends_when_it_says(plane: Plane, window: str, days: int) -> None:
    batch = await create(plane, jsonl(line("a")), window=window)
    assert batch.expires_at is not None and batch.expires_at - batch.created_at == days * 24 * 3600
    await look(plane)
    await look(plane, after_s=days * 24 * 3600 - 60)
    assert requests_of(plane) == {"a": "queued"}
    await look(plane, after_s=days * 24 * 3600 + 1)
    assert requests_of(plane) == {"a": "expired"}


async def test_a_window_that_closes_expires_what_has_not_run(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(*(line(str(i)) for i in range(6))), window="7d")
    await look(plane)
    await run_some(pilot, replica, room=2)
    await _lease(pilot, replica, room=1)  # never comes back
    week_s = 7 * 24 * 3600
    await look(plane, after_s=week_s - 60)
    assert (await state(plane, batch.id)).status == "in_progress"
    await look(plane, after_s=week_s + 1)
    assert requests_of(plane)["2"] == "running" and requests_of(plane)["3"] == "expired"
    await look(plane, after_s=week_s + 61)
    expired = await state(plane, batch.id)
    assert expired.status == "expired" and expired.expired_at and expired.completed_at is None
    errors = await read(plane, expired.error_file_id)
    assert sorted(o["custom_id"] for o in errors) == ["2", "3", "4", "5"]
    assert {o["error"]["code"] for o in errors} == {"batch_expired"}
    assert len(await read(plane, expired.output_file_id)) == 2


async def test_a_line_that_kills_engines_fails_as_poison_in_the_error_file(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(line("bad")))
    await look(plane)
    for _ in range(3):
        (row,) = await _lease(pilot, replica)
        await _send(pilot, _result(row, "back", crashed=True))
    await look(plane)
    done = await state(plane, batch.id)
    (error,) = await read(plane, done.error_file_id)
    assert (error["custom_id"], error["response"], error["error"]["code"]) == ("bad", None, "poison")


async def test_files_are_erased_after_their_time_and_what_crashes_left_too(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    done = await create(plane, jsonl(line("a")))
    await look(plane)
    await run_some(pilot, replica)
    await look(plane)
    running = await create(plane, jsonl(line("b")), window="30d")
    await look(plane)
    folder = plane.settings.files_dir
    stray = folder / "6f1f8c1e-0000-4000-8000-000000000000.part"
    stray.write_bytes(b"half an upload")
    await in_thread(expiry.retain, plane.settings, time.time() + 29 * 24 * 3600)
    assert not stray.exists() and len(list(folder.iterdir())) == 3
    await in_thread(expiry.retain, plane.settings, time.time() + 31 * 24 * 3600)
    # A batch that still runs keeps its input.
    assert [path.name for path in folder.iterdir()] == [running.input_file_id.removeprefix("file-")]
    async with sdk(plane) as client:
        assert [file.id async for file in client.files.list()] == [running.input_file_id]
        assert (await client.batches.retrieve(done.id)).input_file_id == done.input_file_id
    assert plane.sql("SELECT count(*) FROM ledger_file WHERE erased_at > %s", (datetime.now(UTC),)) == [(2,)]
