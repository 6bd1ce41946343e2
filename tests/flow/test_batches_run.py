"""A batch from upload to download, as the openai SDK does it; partial output; every line exactly once."""

from __future__ import annotations

import json

import pytest

from portal.redis import hints
from tests.flow.batch_world import (
    create,
    jsonl,
    line,
    look,
    read,
    refused,
    requests_of,
    run_some,
    sdk,
    state,
)
from tests.flow.dataplane import Plane, until
from tests.flow.test_workerapi_rows import _hot, _lease, _put, _send


async def test_upload_create_poll_download(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    async with sdk(plane) as client:
        content = jsonl(*(line(f"line-{i}", f"text {i}") for i in range(6)))
        file = await client.files.create(file=("my lines.jsonl", content), purpose="batch")
        assert (file.filename, file.bytes, file.purpose) == ("my lines.jsonl", len(content), "batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"run": "7"},
        )
        assert (batch.status, batch.metadata, batch.in_progress_at) == ("validating", {"run": "7"}, None)
        await look(plane)
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == "in_progress" and batch.in_progress_at and batch.request_counts
        assert (batch.request_counts.total, batch.request_counts.completed) == (6, 0)

        assert len(await run_some(pilot, replica)) == 4
        await look(plane)
        # Partial output can be read while the batch runs.
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == "in_progress" and batch.request_counts
        assert batch.request_counts.completed == 4
        assert len(await read(plane, batch.output_file_id)) == 4

        (good, bad) = await _lease(pilot, replica)
        await _send(pilot, refused(bad))
        await run_some(pilot, replica)
        await _send(pilot, refused(good))
        await look(plane)
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed" and batch.completed_at and batch.finalizing_at
        assert batch.request_counts and batch.request_counts.model_dump() == {
            "total": 6, "completed": 4, "failed": 2, "cancelled": 0, "expired": 0,
        }  # fmt: skip
        assert [b.id async for b in client.batches.list()] == [batch.id]

    output, errors = await read(plane, batch.output_file_id), await read(plane, batch.error_file_id)
    assert sorted(o["custom_id"] for o in output + errors) == [f"line-{i}" for i in range(6)]
    for said in output:
        assert said["error"] is None and said["response"]["status_code"] == 200
        text = said["response"]["body"]["choices"][0]["message"]["content"]
        assert text == "text " + said["custom_id"].removeprefix("line-")
    for said in errors:
        assert said["error"]["code"] == "engine_refused" and said["response"]["status_code"] == 400
        assert said["response"]["body"]["error"]["message"] == "too long"
    # Nothing of it is kept anywhere else.
    assert plane.sql("SELECT count(*) FROM ledger_batchend") == [(0,)]
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]


async def test_the_last_line_of_a_batch_asks_for_a_look_and_no_other(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(hints, "batches_soon", lambda: asked.append(len(requests_of(plane))))
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(line("a"), line("b"), line("c")))
    await look(plane)
    asked.clear()  # the creation's
    await run_some(pilot, replica, 1)
    await look(plane)  # the first is written, the second will wait to be
    await run_some(pilot, replica, 1)
    (waited,) = _put(plane)
    assert await run_some(pilot, replica, 1) == [waited]
    assert asked == []
    await run_some(pilot, replica, 1)
    await until(lambda: asked, "somebody is asked to look")
    await look(plane)
    assert (await state(plane, batch.id)).status == "completed"


async def test_async_rows_go_before_those_of_a_batch(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    await create(plane, jsonl(line("a"), line("b")))
    await look(plane)
    (waited,) = _put(plane)
    assert [row["request"] for row in await _lease(pilot, replica, room=1)] == [waited]


async def test_an_answer_is_a_few_megabytes_or_one_row(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    long = _put(plane, 2, "x" * (5 * 2**20))
    short = _put(plane, 4, "x" * (2**20 + 2**19))
    await create(plane, jsonl(*(line(f"{i}", "x" * 2**20) for i in range(5))))
    await look(plane)
    answers = [await _lease(pilot, replica, room=20) for _ in range(6)]
    assert [[row["request"] for row in rows] for rows in answers[:3]] == [long[:1], long[1:], short[:2]]
    # What the async rows leave is the batch's: 1 MiB lines, two of them do not fit beside 3 MiB.
    assert [row["request"] for row in answers[3]] == short[2:]
    assert [len(rows) for rows in answers[4:]] == [3, 2]
    assert await _lease(pilot, replica) == []


async def test_a_batch_keeps_the_order_of_its_file(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    await create(plane, jsonl(*(line(f"{i:02}") for i in range(20))))
    await look(plane)
    got = [row["request"] for _ in range(5) for row in await _lease(pilot, replica)]
    names = dict(plane.sql("SELECT id::text, custom_id FROM ledger_request"))
    assert [names[id_] for id_ in got] == [f"{i:02}" for i in range(20)]


async def test_a_line_reaches_the_engine_as_it_stands_in_the_file(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    body = {"model": "demo", "messages": [{"role": "user", "content": "é\n\\ \U0001f600"}], "seed": 3}
    await create(plane, b"\n" + jsonl(line("x", body=body)).replace(b"\n", b"\r\n") + b"\n\n")
    await look(plane)
    (row,) = await _lease(pilot, replica)
    assert json.loads(row["body"]) == body


@pytest.mark.parametrize("gone", ["deleted", "cut"])
async def test_a_line_that_cannot_be_read_any_more_fails_alone(plane: Plane, gone: str) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(line("a"), line("b")))
    await look(plane)
    path = plane.settings.files_dir / batch.input_file_id.removeprefix("file-")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 5]) if gone == "cut" else path.unlink()
    rows = await _lease(pilot, replica)
    assert len(rows) == (1 if gone == "cut" else 0)
    await _send(pilot, *(refused(row) for row in rows))
    await look(plane)
    ended = await state(plane, batch.id)
    assert ended.status == "completed"
    codes = {said["custom_id"]: said["error"]["code"] for said in await read(plane, ended.error_file_id)}
    assert codes["b"] == "input_lost" and codes.keys() == {"a", "b"}
    assert set(requests_of(plane).values()) == {"failed"}


async def test_an_input_that_a_running_batch_reads_is_not_deleted(plane: Plane) -> None:
    batch = await create(plane, jsonl(line("a")))
    async with plane.client.delete(
        f"{plane.url}/v1/files/{batch.input_file_id}", headers=plane.headers()
    ) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (409, "conflict")
