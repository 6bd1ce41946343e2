"""/v1/files and the edges of /v1/batches: forms, limits, owners, lists."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
import redis as redis_library
from psycopg2.extensions import connection as Connection

from portal.accounts.issue import issue_token
from portal.accounts.models import Membership, Project, User
from tests.flow import dataplane
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
from tests.flow.dataplane import Plane, Seeded
from tests.flow.test_workerapi_rows import _hot

MOST = 100_000


@pytest.fixture
async def tight(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis, tmp_path: Any
) -> AsyncIterator[Plane]:
    """Start a plane with limits that a test can pass, and a folder of its own."""
    limits = {"max_file_bytes": MOST, "max_batch_lines": 3, "files_dir": tmp_path / "files"}
    async with dataplane.running(seeded, test_dsn, pg, redis, **limits) as plane:
        yield plane


def _mate_and_outsider(project: int) -> list[str]:
    """Make tokens of a team-mate, of an outsider, and of one who may only look."""
    mate, outsider = (User.objects.create_user(name) for name in ("mate", "outsider"))
    other = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(user=mate, project_id=project)
    Membership.objects.create(user=outsider, project=other)
    ours = Project.objects.get(id=project)
    return [
        issue_token(mate, ours, "t", ["inference", "read"])[1].text,
        issue_token(outsider, other, "t", ["inference", "read"])[1].text,
    ]


async def test_only_the_owner_sees_files_and_batches(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(line("a")))
    await look(plane)
    await run_some(pilot, replica)
    await look(plane)
    done = await state(plane, batch.id)
    assert done.output_file_id and await read(plane, done.output_file_id)
    for token in await in_thread(_mate_and_outsider, plane.seeded.project):
        async with sdk(plane, token) as client:
            for file in (batch.input_file_id, done.output_file_id):
                for ask in (client.files.retrieve, client.files.content, client.files.delete):
                    with pytest.raises(openai.NotFoundError):
                        await ask(file)
            with pytest.raises(openai.NotFoundError):
                await client.batches.retrieve(batch.id)
            with pytest.raises(openai.NotFoundError):
                await client.batches.cancel(batch.id)
            with pytest.raises(openai.NotFoundError) as no:
                await client.batches.create(
                    input_file_id=batch.input_file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
            assert no.value.code == "file_not_found"
            assert [f async for f in client.files.list()] == [] == [b async for b in client.batches.list()]
    async with sdk(plane) as client:
        assert (await client.files.delete(batch.input_file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.content(batch.input_file_id)
    assert not (plane.settings.files_dir / batch.input_file_id.removeprefix("file-")).exists()


async def test_lists_come_in_pages(plane: Plane) -> None:
    async with sdk(plane) as client:
        ids = [
            (await client.files.create(file=(f"{i}", jsonl(line("a"))), purpose="batch")).id for i in range(5)
        ]
        made = [
            (
                await client.batches.create(
                    input_file_id=ids[0], endpoint="/v1/chat/completions", completion_window="24h"
                )
            ).id
            for _ in range(5)
        ]
        assert [file.id async for file in client.files.list(limit=2, order="asc")] == ids
        assert [file.id async for file in client.files.list(limit=2)] == ids[::-1]
        assert [file async for file in client.files.list(purpose="batch_output")] == []
        assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
        for wrong in ("limit=0", "limit=x", "limit=99999999", "order=up", "purpose=%00", "after=file-1"):
            async with plane.client.get(f"{plane.url}/v1/files?{wrong}", headers=plane.headers()) as answer:
                assert answer.status in (400, 404), wrong


async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(tight: Plane) -> None:
    async with sdk(tight) as client:
        await client.files.create(file=("just fits", b"x" * MOST), purpose="batch")
        for size in (MOST + 1, MOST + 1_000_000):
            with pytest.raises(openai.APIStatusError) as no:
                await client.files.create(file=("in", b"x" * size), purpose="batch")
            assert (no.value.status_code, no.value.code) == (413, "body_too_large")
    assert len(list(tight.settings.files_dir.iterdir())) == 1


async def test_a_large_body_without_a_length_is_cut_off(tight: Plane) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        while True:
            yield b"x" * 65536

    headers = tight.headers() | {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        async with tight.client.post(tight.url + "/v1/files", data=endless(), headers=headers) as answer:
            assert answer.status == 413
    except (aiohttp.ClientError, ConnectionError):
        pass  # closed on us while we were still sending
    assert list(tight.settings.files_dir.iterdir()) == []


async def test_an_upload_that_breaks_off_leaves_nothing(tight: Plane) -> None:
    host, port = tight.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Authorization: Bearer " + tight.seeded.token.encode() + b"\r\nContent-Length: 5000\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nsome'
    )
    await writer.drain()
    folder = tight.settings.files_dir
    await dataplane.until(lambda: folder.exists() and list(folder.iterdir()), "the draft")
    writer.close()
    await dataplane.until(lambda: not list(folder.iterdir()), "its end")


def _form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return (
        b"".join(
            b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (h.encode(), v) for h, v in parts
        )
        + end
    )


FILE = ('name="file"; filename="x"', b"{}")
PURPOSE = ('name="purpose"', b"batch")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (_form(PURPOSE), "multipart/form-data; boundary=b"),
        (_form(FILE), "multipart/form-data; boundary=b"),
        (_form(FILE, ('name="purpose"', b"fine-tune")), "multipart/form-data; boundary=b"),
        (_form(FILE, FILE, PURPOSE), "multipart/form-data; boundary=b"),
        (_form(FILE, PURPOSE, end=b""), "multipart/form-data; boundary=b"),
        (_form(FILE, PURPOSE, ('name="x"', b"y" * 5000)), "multipart/form-data; boundary=b"),
        (_form(FILE, PURPOSE, *((f'name="{i}"', b"") for i in range(30))), "multipart/form-data; boundary=b"),
        (_form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"-1")), "multipart/form-data; boundary=b"),
        (b"--c\r\nrubbish", "multipart/form-data; boundary=b"),
        (b"", "multipart/form-data; boundary=b"),
        (_form(FILE, PURPOSE), "multipart/form-data"),
        (b"{}", "application/json"),
    ],
)
async def test_a_form_that_is_wrong_is_a_400(tight: Plane, body: bytes, kind: str) -> None:
    async with tight.post(body, path="/v1/files", headers={"Content-Type": kind}) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")
    folder = tight.settings.files_dir
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b", "\udcff" * 3, "x" * 900, ""])
async def test_a_name_is_never_a_path(tight: Plane, name: str) -> None:
    field = f'name="file"; filename="{name}"'.encode("utf-8", "surrogateescape").decode("latin-1")
    body = b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n{}\r\n" % field.encode("latin-1") + _form(
        PURPOSE
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with tight.post(body, path="/v1/files", headers=headers) as answer:
        assert answer.status == 200
        file = await answer.json()
    assert len(file["filename"]) <= 255 and "\0" not in file["filename"]
    assert [path.name for path in tight.settings.files_dir.iterdir()] == [file["id"].removeprefix("file-")]


async def test_a_batch_may_have_so_many_lines(tight: Plane) -> None:
    batches = [await create(tight, jsonl(*(line(f"{i}") for i in range(n)))) for n in (3, 4)]
    await look(tight)
    fits, too_many = [await state(tight, batch.id) for batch in batches]
    assert (fits.status, too_many.status, len(requests_of(tight))) == ("in_progress", "failed", 3)


GOOD: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"endpoint": "/v1/models"}, 400, "invalid_parameter"),
        ({"endpoint": ["x"]}, 400, "invalid_parameter"),
        ({"completion_window": "25h"}, 400, "invalid_parameter"),
        ({"completion_window": 24}, 400, "invalid_parameter"),
        ({"input_file_id": None}, 400, "invalid_parameter"),
        ({"input_file_id": "file-7"}, 404, "file_not_found"),
        ({"input_file_id": f"file-{uuid.uuid4()}"}, 404, "file_not_found"),
        ({"metadata": "x"}, 400, "invalid_parameter"),
        ({"metadata": {"a": 1}}, 400, "invalid_parameter"),
        ({"metadata": {"a": "\0"}}, 400, "invalid_parameter"),
        ({"metadata": {"a": "\ud800"}}, 400, "invalid_parameter"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "invalid_parameter"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused(
    plane: Plane, change: dict[str, Any], status: int, code: str
) -> None:
    async with sdk(plane) as client:
        file = await client.files.create(file=("in", jsonl(line("a"))), purpose="batch")
    async with plane.post(GOOD | {"input_file_id": file.id} | change, path="/v1/batches") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
    async with plane.post(b"\xff{", path="/v1/batches") as answer:
        assert answer.status == 400


async def test_methods_and_addresses_that_do_not_exist(plane: Plane) -> None:
    id_ = uuid.uuid4()
    for method, path, status in (
        ("PUT", "/v1/files", 405),
        ("PATCH", f"/v1/files/file-{id_}", 405),
        ("POST", f"/v1/files/file-{id_}/content", 405),
        ("GET", f"/v1/files/file-{id_}/other", 404),
        ("GET", f"/v1/files/{id_}", 404),
        ("GET", "/v1/files/file-../../x", 404),
        ("DELETE", "/v1/batches", 405),
        ("DELETE", f"/v1/batches/batch_{id_}", 405),
        ("GET", f"/v1/batches/batch_{id_}/cancel", 405),
        ("GET", f"/v1/batches/batch_{id_}/x", 404),
        ("GET", "/v1/batches/x", 404),
    ):
        async with plane.client.request(method, plane.url + path, headers=plane.headers()) as answer:
            assert answer.status == status, (method, path)
            assert json.loads(await answer.read())["error"]["request_id"]
    async with plane.client.get(plane.url + "/v1/files") as answer:
        assert answer.status == 401


async def test_a_batch_that_is_over_cannot_be_cancelled(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    batch = await create(plane, jsonl(line("a")))
    await look(plane)
    await run_some(pilot, replica)
    await look(plane)
    async with sdk(plane) as client:
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
