"""What the gateway reads of a body, and what it leaves alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuworker.wire import ENDPOINTS
from portal.acceptance import inference_request
from portal.errors import KINDS, ApiError

CHAT = "/v1/chat/completions"


def _body(**more: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **more}).encode()


def test_a_plain_body_travels_on_unchanged() -> None:
    body = b' {"model":"m",  "messages":[{"role":"user","content":"x"}], "logit_bias":{"5":1}}'
    assert inference_request.read(CHAT, body) == inference_request.InferenceRequest(
        ENDPOINTS[CHAT], "m", False, False, body
    )


def test_a_stream_always_reports_its_usage_to_us() -> None:
    for body in (_body(stream=True), b"\n\t" + _body(stream=True), _body(stream=True, stream_options=None)):
        read = inference_request.read(CHAT, body)
        assert read.stream and read.strips_usage
        sent = json.loads(read.body)
        assert sent.pop("stream_options") == {"include_usage": True}
        original = json.loads(body)
        original.pop("stream_options", None)
        assert sent == original


def test_options_of_the_client_stay_beside_ours() -> None:
    read = inference_request.read(CHAT, _body(stream=True, stream_options={"continuous_usage_stats": False}))
    assert json.loads(read.body)["stream_options"] == {"continuous_usage_stats": False, "include_usage": True}
    read = inference_request.read(CHAT, _body(stream=True, stream_options={"include_usage": True}))
    assert not read.strips_usage


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
names = st.sampled_from(["model", "messages", "prompt", "max_tokens", "stream", "n", "stream_options", "x"])


@given(st.dictionaries(names, json_values, max_size=6) | json_values, st.sampled_from(sorted(ENDPOINTS)))
def test_any_json_is_either_read_or_a_400(raw: object, api: str) -> None:
    try:
        read = inference_request.read(api, json.dumps(raw).encode())
    except ApiError as error:
        assert error.status == 400
    else:
        assert isinstance(read.model, str) and json.loads(read.body)


@given(st.binary(max_size=60))
def test_any_bytes_are_either_read_or_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        inference_request.read(CHAT, body)
    assert caught.value.status == 400


def test_each_line_of_the_table_says_what_happened_and_what_to_do() -> None:
    for code, kind in KINDS.items():
        said = ApiError(code, detail="a {brace} and {detail}").envelope("id")["error"]
        assert said["code"] == code and said["request_id"] == "id"
        assert 400 <= kind.status < 600 and kind.todo.endswith(".")
        assert kind.side in ("client", "site", "model")
        assert (kind.status >= 500) == (kind.side != "client"), code
        assert len(code) <= 40, "the ledger's column"
