"""Embeddings and responses: what the gateway checks, and that their bodies travel on untouched."""

from __future__ import annotations

import json

import pytest

from gpuworker.endpoints import EMBEDDING, RESPONSE
from portal.acceptance import inference_request
from portal.errors import ApiError
from portal.gateway.usage import Usage, UsageTap, of_answer

EMBEDDINGS, RESPONSES = EMBEDDING.path, RESPONSE.path


def _body(**said: object) -> bytes:
    return json.dumps({"model": "m", **said}).encode()


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2, 3], [[1], [2]]])
def test_embeddings_take_texts_and_tokens(given: object) -> None:
    body = _body(input=given, encoding_format="base64", dimensions=4)
    assert inference_request.read(EMBEDDINGS, body) == inference_request.InferenceRequest(
        EMBEDDING, "m", False, False, body
    )


@pytest.mark.parametrize("given", [None, "", [], 5, {}])
def test_embeddings_of_nothing_are_refused(given: object) -> None:
    with pytest.raises(ApiError) as caught:
        inference_request.read(EMBEDDINGS, _body(input=given))
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "input")


def test_a_streamed_response_is_not_asked_for_usage_which_it_always_reports() -> None:
    body = _body(input="hi", stream=True)
    assert inference_request.read(RESPONSES, body) == inference_request.InferenceRequest(
        RESPONSE, "m", True, False, body
    )


def test_a_background_response_is_an_ordinary_one_to_the_engine() -> None:
    read = inference_request.read(
        RESPONSES, _body(input="hi", background=True, store=True, metadata={"a": "b"})
    )
    assert read.background and not read.stream
    assert json.loads(read.body) == {"model": "m", "input": "hi", "metadata": {"a": "b"}}


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True, "stream": True}, "stream"),
        ({"background": "yes"}, "background"),
        ({"input": None}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_done_is_said_by_name(said: dict[str, object], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        inference_request.read(RESPONSES, _body(**{"input": "hi", **said}))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_usage_of_a_response_has_names_of_its_own() -> None:
    usage = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 4}
    assert of_answer(json.dumps({"output": [], "usage": usage}).encode()) == Usage(3, 4)


def test_the_last_event_of_a_response_tells_its_usage_and_is_passed_on() -> None:
    tap = UsageTap(strips=False)
    begun = b'event: response.created\ndata: {"response":{"usage":null}}\n\n'
    ended = (
        b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":3,"output_tokens":4}}}\n\n'
    )
    assert tap.feed(begun) == begun and not tap.over
    assert tap.feed(ended) == ended and tap.over
    assert tap.usage == Usage(3, 4)
