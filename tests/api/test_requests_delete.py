"""DELETE /api/v1/requests/{id}: cancelling, also while it runs, and who is told."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from portal.accounts.issue import issue_token
from portal.ledger.models import Payload, RequestEvent
from portal.redis import keys
from tests.api.world import ApiClient, World, request_row

MAY = {"owner": 200, "mate": 404, "manager": 200, "outsider": 404, "operator": 200, "anonymous": 401}


@pytest.mark.parametrize(("who", "status"), MAY.items())
def test_who_may_cancel(world: World, who: str, status: int) -> None:
    row = request_row(world)
    answer = world.everyone()[who].send("DELETE", f"requests/{row.id}")
    assert answer.status_code == status
    row.refresh_from_db()
    assert row.state == ("cancelled" if status == 200 else "queued")
    assert Payload.objects.exists() == (status != 200)
    if status == 200:
        assert answer.json()["state"] == "cancelled"
        assert RequestEvent.objects.get().detail == f"cancelled by {'its owner' if who == 'owner' else who}"


def test_a_gateway_that_holds_it_is_told_at_once(world: World, sent: list[tuple[str, str]]) -> None:
    waiting = request_row(world, lane="held", holder="gw-7")
    running = request_row(world, "running", lane="held", holder="gw-7", replica=uuid4(), attempt=3)
    for row in (waiting, running):
        assert world.owner.api.send("DELETE", f"requests/{row.id}").status_code == 200
    assert [(channel, json.loads(text)) for channel, text in sent] == [
        (keys.GATEWAY.of("gw-7"), {"cancel": str(waiting.id), "attempt": 0}),
        (keys.GATEWAY.of("gw-7"), {"cancel": str(running.id), "attempt": 3}),
    ]


def test_a_pulled_row_is_cancelled_while_it_runs(world: World, sent: list[tuple[str, str]]) -> None:
    row = request_row(world, "running")
    assert world.owner.api.send("DELETE", f"requests/{row.id}").json()["state"] == "cancelled"
    assert sent == []  # its pilot hears it with its next sync


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "expired"])
def test_what_has_ended_stays_as_it_is(world: World, state: str) -> None:
    row = request_row(world, state)
    answer = world.owner.api.send("DELETE", f"requests/{row.id}")
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "conflict"
    row.refresh_from_db()
    assert row.state == state and Payload.objects.exists()


def test_a_token_that_only_reads_cancels_nothing(world: World) -> None:
    row = request_row(world)
    _, minted = issue_token(world.owner.user, world.project, "n", ["read"])
    answer = ApiClient(minted.text).send("DELETE", f"requests/{row.id}")
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "scope_missing"


def test_the_browser_needs_the_csrf_token(world: World) -> None:
    row = request_row(world)
    client = world.owner.browser
    client.handler.enforce_csrf_checks = True
    assert client.send("DELETE", f"requests/{row.id}").status_code == 403
    row.refresh_from_db()
    assert row.state == "queued"
