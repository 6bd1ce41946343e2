"""Agents and portals of different ages understand each other; what is missing otherwise is refused."""

from __future__ import annotations

import json

import pytest

from gpuworker import wire

OBSERVED = wire.ObservedReplica(
    "r1", "llama", "llama", "hot", "", 4, 1, 0, 1.0, 2.0, None, "", 0, 100, "1.0", served=7, busy_s=3.5
)


def test_fields_that_came_later_have_defaults_and_unknown_ones_are_ignored() -> None:
    body = json.loads(wire.dumps(OBSERVED))
    for later in ("served", "busy_s", "can_sleep", "asleep_mem_mb"):
        del body[later]
    read = wire.loads(wire.ObservedReplica, json.dumps({**body, "from_the_future": 1}))
    assert (read.id, read.served, read.busy_s) == ("r1", 0, 0.0)
    assert wire.loads(wire.ObservedReplica, wire.dumps(OBSERVED)) == OBSERVED


def test_a_missing_field_is_refused_by_its_name() -> None:
    body = json.loads(wire.dumps(OBSERVED))
    del body["state"], body["cap"]
    with pytest.raises(wire.WireError, match="missing cap, state"):
        wire.loads(wire.ObservedReplica, json.dumps(body))


def test_a_mistyped_field_is_refused_by_its_path() -> None:
    said = wire.Sync("p", 1, 0, 1.0, False, "", [OBSERVED], [], None)
    body = json.loads(wire.dumps(said))
    body["replicas"][0]["cap"] = "many"
    with pytest.raises(wire.WireError, match=r"^Sync\.replicas\[0\]\.cap: expected int, got str$"):
        wire.loads(wire.Sync, json.dumps(body))
    body["replicas"][0]["cap"] = True  # an int in Python, not on the wire
    with pytest.raises(wire.WireError, match=r"cap: expected int, got bool"):
        wire.loads(wire.Sync, json.dumps(body))


@pytest.mark.parametrize("body", [b'{"model": "\xc3\xa9"}', b"", b"\x00\xff\xfe" * 100])
def test_bytes_travel_unharmed(body: bytes) -> None:
    row = wire.LeasedRow("q", 1, "r", "/v1/completions", False, body, "application/octet-stream")
    assert wire.loads(wire.LeasedRow, wire.dumps(row)) == row


def test_an_agent_of_before_reads_and_writes_json_as_text() -> None:
    row = wire.LeasedRow("q", 1, "r", "/v1/completions", False, b'{"n": 1}')
    assert json.loads(wire.dumps(row))["body"] == '{"n": 1}'


@pytest.mark.parametrize("body", [5, None, {"base64": "*"}, {"base64": 1}, {"base64": "é"}, []])
def test_what_is_no_bytes_is_refused(body: object) -> None:
    row = wire.LeasedRow("q", 1, "r", "/v1/completions", False, b"")
    raw = json.loads(wire.dumps(row)) | {"body": body}
    with pytest.raises(wire.WireError, match=r"LeasedRow\.body: "):
        wire.loads(wire.LeasedRow, json.dumps(raw))
