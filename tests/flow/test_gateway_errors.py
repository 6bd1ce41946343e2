"""Bad input: the OpenAI envelope, the right status, what to do; nothing queued, nothing forwarded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from portal.errors import KINDS
from portal.redis import keys
from tests.flow.dataplane import Plane, chat
from tests.flow.fake_ingress import reject

NOT_A_LIST = {"role": "user", "content": "hi"}
DEEP = b'{"model": "demo", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"

# name → (path, body, status, code, param)
BODIES: dict[str, tuple[str, Any, int, str, str | None]] = {
    "no JSON": ("/v1/chat/completions", b"{nope", 400, "invalid_json", None),
    "empty": ("/v1/chat/completions", b"", 400, "invalid_json", None),
    "a list": ("/v1/chat/completions", b"[1]", 400, "invalid_json", None),
    "not UTF-8": ("/v1/chat/completions", b'{"model": "\xff"}', 400, "invalid_json", None),
    "nested too deeply": ("/v1/chat/completions", DEEP, 400, "invalid_json", None),
    "a number too long": ("/v1/chat/completions", b'{"n": ' + b"1" * 5000 + b"}", 400, "invalid_json", None),
    "no model": ("/v1/chat/completions", {"messages": [NOT_A_LIST]}, 400, "invalid_parameter", "model"),
    "model a number": ("/v1/chat/completions", chat(model=3), 400, "invalid_parameter", "model"),
    "no messages": ("/v1/chat/completions", {"model": "demo"}, 400, "invalid_parameter", "messages"),
    "messages empty": ("/v1/chat/completions", chat(messages=[]), 400, "invalid_parameter", "messages"),
    "messages an object": (
        "/v1/chat/completions", chat(messages=NOT_A_LIST), 400, "invalid_parameter", "messages"),
    "message a text": (
        "/v1/chat/completions", chat(messages=["hi"]), 400, "invalid_parameter", "messages[0]"),
    "message without role": (
        "/v1/chat/completions", chat(messages=[{"content": "hi"}]), 400, "invalid_parameter", "messages[0].role"),
    "content a number": (
        "/v1/chat/completions", chat(messages=[{"role": "user", "content": 3}]), 400, "invalid_parameter",
        "messages[0].content"),
    "max_tokens 0": ("/v1/chat/completions", chat(max_tokens=0), 400, "invalid_parameter", "max_tokens"),
    "max_tokens true": ("/v1/chat/completions", chat(max_tokens=True), 400, "invalid_parameter", "max_tokens"),
    "max_tokens text": ("/v1/chat/completions", chat(max_tokens="9"), 400, "invalid_parameter", "max_tokens"),
    "n 0": ("/v1/chat/completions", chat(n=0), 400, "invalid_parameter", "n"),
    "stream a text": ("/v1/chat/completions", chat(stream="yes"), 400, "invalid_parameter", "stream"),
    "stream_options a text": (
        "/v1/chat/completions", chat(stream=True, stream_options="x"), 400, "invalid_parameter", "stream_options"),
    "temperature a text": (
        "/v1/chat/completions", chat(temperature="hot"), 400, "invalid_parameter", "temperature"),
    "no prompt": ("/v1/completions", {"model": "demo"}, 400, "invalid_parameter", "prompt"),
    "prompt a number": ("/v1/completions", {"model": "demo", "prompt": 3}, 400, "invalid_parameter", "prompt"),
    "unknown model": ("/v1/chat/completions", chat(model="nobody"), 404, "model_not_found", "model"),
    "model of others": ("/v1/chat/completions", chat(model="hidden"), 404, "model_not_found", "model"),
    "surrogate in the model": (
        "/v1/chat/completions", b'{"model": "\\ud800", "messages": [{"role": "user"}]}', 404, "model_not_found",
        "model"),
    "unknown path": ("/v1/images", chat(), 404, "not_found", None),
}  # fmt: skip


async def _error(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status == status, await answer.text()
    said: dict[str, Any] = (await answer.json())["error"]
    assert said["code"] == code
    assert said["type"] == KINDS[code].type
    assert said["message"] and KINDS[code].todo.split("{")[0] in said["message"]
    assert said["request_id"] == answer.headers["x-request-id"]
    return said


def _nothing_happened(plane: Plane) -> None:
    assert plane.sql("SELECT count(*) FROM ledger_request") == [(0,)]
    assert not plane.redis.keys(keys.WAIT.of("demo")) and not plane.ingress.seen


async def test_each_bad_body_is_told_what_is_wrong_and_queues_nothing(plane: Plane) -> None:
    plane.route()
    for name, (path, body, status, code, param) in BODIES.items():
        async with plane.post(body, path) as answer:
            said = await _error(answer, status, code)
            assert said["param"] == param, name
    _nothing_happened(plane)


async def test_an_unknown_model_and_one_of_others_read_the_same(plane: Plane) -> None:
    said = []
    for name in ("hidden", "nobody"):
        async with plane.post(chat(model=name)) as answer:
            said.append((await answer.json())["error"]["message"].replace(name, "X"))
    assert said[0] == said[1]


async def test_a_prompt_never_stands_in_an_error_about_its_json(plane: Plane) -> None:
    async with plane.post(b'{"messages": "my secret" nonsense') as answer:
        assert "secret" not in await answer.text()


async def test_a_body_that_is_too_large_is_refused_announced_or_not(plane: Plane) -> None:
    most = plane.settings.max_body_bytes
    # The rest never comes: this client must not use the connection again.
    async with plane.post(
        b"x" * 10, headers={"Content-Length": str(most + 1), "Connection": "close"}
    ) as answer:
        await _error(answer, 413, "body_too_large")

    async def chunks() -> Any:
        for _ in range(most // 2**20 + 2):
            yield b"x" * 2**20

    async with plane.client.post(
        plane.url + "/v1/chat/completions", data=chunks(), headers=plane.headers()
    ) as answer:
        await _error(answer, 413, "body_too_large")
    _nothing_happened(plane)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_other_methods_are_refused(plane: Plane, method: str) -> None:
    async with plane.client.request(
        method, plane.url + "/v1/chat/completions", headers=plane.headers()
    ) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_an_engines_rejection_reaches_the_client_and_not_the_ledger(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [reject(400, "your prompt SECRET is too long")]
    async with plane.post() as answer:
        said = await _error(answer, 400, "engine_rejected")
        assert "SECRET" in said["message"]
    row = await plane.ended(answer.headers["x-request-id"])
    assert (row["state"], row["http_status"], row["error_code"]) == ("failed", 400, "engine_rejected")
    assert "SECRET" not in json.dumps(row)


async def test_an_engines_failure_is_ours_to_explain(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [reject(500, "cuda says no")]
    async with plane.post(chat(stream=True)) as answer:
        await _error(answer, 502, "engine_error")


async def test_the_list_of_models_says_how_each_is_doing(plane: Plane) -> None:
    async with plane.client.get(plane.url + "/v1/models", headers=plane.headers()) as answer:
        listed = (await answer.json())["data"]
    assert [entry["id"] for entry in listed] == ["demo"]
    assert listed[0]["berth"]["residency"] == "not_loaded"
    assert listed[0]["berth"]["context_tokens"] == 2048
    plane.route()
    await plane.gateway.directory.model("nobody", plane.seeded.project)  # an unknown one makes it read anew
    async with plane.client.get(plane.url + "/v1/models/demo", headers=plane.headers()) as answer:
        assert (await answer.json())["berth"]["residency"] == "ready"
    async with plane.client.get(plane.url + "/v1/models/hidden", headers=plane.headers()) as answer:
        await _error(answer, 404, "model_not_found")
