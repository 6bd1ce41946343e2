"""/v1/responses with the official SDK: at once, as a stream, and in the background, which is asking asynchronously."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from gpuworker.engines import echo_responses
from portal.accounts.issue import issue_token
from portal.accounts.models import Membership, Project, User
from tests.flow.dataplane import Plane, Seeded, until
from tests.flow.test_openai_sdk_chat import answers
from tests.flow.test_workerapi_rows import _hot, _lease, _result, _send

ANSWER = echo_responses.response(1, "demo", "hello world", "completed", (7, 2))


@pytest.fixture
async def ask(plane: Plane) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token) as client:
        yield client


async def later(ask: openai.AsyncOpenAI) -> Response:
    return await ask.responses.create(model="demo", input="hi", background=True)


async def pulled(plane: Plane, **said: Any) -> dict[str, Any]:
    """Let a pilot take the one row that waits, and end it."""
    pilot, replica = await _hot(plane)
    (row,) = await _lease(pilot, replica)
    await _send(pilot, _result(row, **({"body": json.dumps(ANSWER)} | said)))
    body: dict[str, Any] = json.loads(row["body"])
    return body


async def test_at_once_it_is_the_engines_own_answer(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    plane.route()
    plane.ingress.next = [answers(ANSWER)]
    got = await ask.responses.create(model="demo", input="hi", instructions="be short", store=False)
    assert (got.status, got.output_text, got.id) == ("completed", "hello world", "resp_1")
    seen = plane.ingress.seen[0]
    assert seen.path == "/v1/responses"
    assert seen.body == {"model": "demo", "input": "hi", "instructions": "be short", "store": False}
    (row,) = await until(lambda: plane.sql("SELECT id::text FROM ledger_request"), "its row")
    ended = await plane.ended(row[0])
    assert (ended["prompt_tokens"], ended["completion_tokens"]) == (7, 2)


async def test_a_stream_of_events_comes_through_as_it_is(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    async def words() -> AsyncIterator[str]:
        for word in ("hello", " world"):
            yield word

    plane.route()
    plane.ingress.next = [answers([event async for event in echo_responses.events(1, "demo", words(), 7)])]
    got = [event async for event in await ask.responses.create(model="demo", input="hi", stream=True)]
    kinds = [event.type for event in got]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "".join(e.delta for e in got if e.type == "response.output_text.delta") == "hello world"
    assert "stream_options" not in plane.ingress.seen[0].body
    (row,) = await until(lambda: plane.sql("SELECT id::text FROM ledger_request"), "its row")
    ended = await plane.ended(row[0])
    assert (ended["state"], ended["prompt_tokens"], ended["completion_tokens"]) == ("done", 7, 2)


async def test_in_the_background_from_queued_to_completed(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    assert begun.status == "queued" and begun.id.startswith("resp_") and begun.background
    assert (await ask.responses.retrieve(begun.id)).status == "queued"
    pilot, replica = await _hot(plane)
    (row,) = await _lease(pilot, replica)
    assert json.loads(row["body"]) == {"model": "demo", "input": "hi"}
    assert (await ask.responses.retrieve(begun.id)).status == "in_progress"
    await _send(pilot, _result(row, body=json.dumps(ANSWER)))
    got = await ask.responses.retrieve(begun.id)
    assert (got.id, got.status, got.output_text) == (begun.id, "completed", "hello world")
    assert got.usage is not None and got.usage.total_tokens == 9


async def test_cancelled_it_stays_cancelled(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    assert (await ask.responses.cancel(begun.id)).status == "cancelled"
    assert (await ask.responses.cancel(begun.id)).status == "cancelled"
    assert (await ask.responses.retrieve(begun.id)).status == "cancelled"
    pilot, replica = await _hot(plane)
    assert await _lease(pilot, replica) == []


async def test_a_cancel_that_comes_too_late_changes_nothing(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    await pulled(plane)
    assert (await ask.responses.cancel(begun.id)).status == "completed"


async def test_a_failure_is_told_in_the_engines_words(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    body = json.dumps({"error": {"message": "too long", "type": "BadRequestError"}})
    await pulled(plane, outcome="failed", status=400, body=body, error_code="engine_refused")
    got = await ask.responses.retrieve(begun.id)
    assert got.status == "failed" and got.error is not None
    assert (got.error.code, got.error.message) == ("server_error", "too long")


async def test_garbage_from_the_engine_is_a_failure_too(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    await pulled(plane, body="<garbage>")
    assert (await ask.responses.retrieve(begun.id)).status == "failed"


async def test_a_response_whose_result_was_erased_is_gone(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    await pulled(plane)
    plane.sql("DELETE FROM ledger_payload")
    with pytest.raises(openai.NotFoundError):
        await ask.responses.retrieve(begun.id)


@pytest.fixture
def outsider(seeded: Seeded) -> str:
    user = User.objects.create_user("eve")
    project = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(user=user, project=project)
    return issue_token(user, project, "test", ["inference", "read"])[1].text


async def test_nobody_else_sees_or_ends_it(outsider: str, plane: Plane, ask: openai.AsyncOpenAI) -> None:
    begun = await later(ask)
    stranger = ask.with_options(api_key=outsider)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.retrieve(begun.id)
    with pytest.raises(openai.NotFoundError):
        await stranger.responses.cancel(begun.id)
    assert (await ask.responses.retrieve(begun.id)).status == "queued"


@pytest.mark.parametrize("name", ["resp_1", "resp_" + "5e" * 16, "nonsense", "%00"])
async def test_ids_that_are_none(plane: Plane, ask: openai.AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await ask.responses.retrieve(name)
    assert caught.value.code == "response_not_found"


async def test_a_chat_is_not_a_response(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    async with plane.post(headers={"Prefer": "respond-async"}) as answer:
        request = answer.headers["x-request-id"]
    with pytest.raises(openai.NotFoundError):
        await ask.responses.retrieve("resp_" + request.replace("-", ""))


async def test_what_is_not_supported_is_said_by_name(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask.responses.create(model="demo", input="hi", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    begun = await later(ask)
    with pytest.raises(openai.BadRequestError) as caught:
        await ask.responses.retrieve(begun.id, stream=True)
    assert caught.value.param == "stream"
    with pytest.raises(openai.APIStatusError) as refused:
        await ask.responses.delete(begun.id)
    assert refused.value.status_code == 405


async def test_any_request_can_be_answered_later(plane: Plane) -> None:
    async with plane.post(headers={"Prefer": "respond-async, wait=5"}) as answer:
        assert answer.status == 202
        request = answer.headers["x-request-id"]
        assert answer.headers["Location"] == f"/api/v1/requests/{request}"
        assert answer.headers["Preference-Applied"] == "respond-async"
        assert (await answer.json())["state"] == "queued"
    row = plane.row(request)
    assert row is not None and (row["lane"], row["holder"], row["stream"]) == ("async", None, False)
    await pulled(plane)
    assert (await plane.ended(request))["state"] == "done"
