"""Text that a database or an encoding cannot hold: a 400 or an answer, never a 500."""

from __future__ import annotations

import json

import pytest

from portal.ledger.models import Payload
from tests.api.world import World, request_row


@pytest.mark.parametrize(
    "path",
    [
        "models/a%00b",
        "requests?model=%00",
        "requests?cursor=%00",
        "decisions?pool=a%00",
        "decisions?pilot=%00",
    ],
)
def test_an_address_with_a_nul_is_refused_in_the_usual_form(world: World, path: str) -> None:
    answer = world.operator.api.send("GET", path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")
    assert answer.json()["error"]["request_id"] == answer["x-request-id"]
    assert world.owner.api.send("POST", "models/%00/wake").status_code == 400


def test_a_page_with_a_nul_in_its_address_is_refused_too(world: World) -> None:
    assert world.operator.browser.get("/decisions?model=%00").status_code == 400
    assert world.operator.browser.get("/%00").status_code == 400


@pytest.mark.parametrize(
    "command",
    [
        {"kind": "relaunch", "args": {"profile": "\0"}},
        {"kind": "pin", "pool": "\0"},
        {"kind": "drain", "pilot": "\0"},
        {"kind": "evict", "replica": "\0"},
    ],
)
def test_a_command_that_names_something_with_a_nul_is_refused(
    world: World, command: dict[str, object]
) -> None:
    answer = world.operator.api.send("POST", "commands", command)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


def test_half_a_surrogate_pair_in_an_answer_is_told_as_json_tells_it(world: World) -> None:
    row = request_row(world, "done")
    said = {"choices": [{"text": "half a pair: \ud800"}]}
    Payload.objects.filter(request=row).update(result=json.dumps(said).encode())
    answer = world.owner.api.send("GET", f"requests/{row.id}")
    assert (answer.status_code, answer.json()["result"]) == (200, said)
