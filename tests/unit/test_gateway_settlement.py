"""How a call ends, by whichever flow: once, with its slot free and its limits settled, and written in one place."""

from __future__ import annotations

import ast
import time
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from gpuworker.endpoints import CHAT
from portal.acceptance.asked import Asked
from portal.accounts.callers import Caller
from portal.admission.place import Place
from portal.admission.slots import Route
from portal.errors import ApiError
from portal.gateway.call import Call, Progress
from portal.gateway.forward import End
from portal.gateway.moves import Cancel, EndQueued
from portal.gateway.settlement import Settlement
from portal.gateway.usage import Usage
from portal.ledger.transitions import Finish, Interrupted
from tests.unit.fences import modules

REPLICA = str(uuid.uuid4())


class Hands:
    """A writer, keeper, limits, slots and repeats in one, which note what they are told."""

    def __init__(self, moved: str | None = "queued") -> None:
        self.written: list[Any] = []
        self.told: list[tuple[Any, ...]] = []
        self.moved = moved

    def later(self, move: Any) -> None:
        self.written.append(move)

    def record(self, row: Any) -> None:
        self.written.append(row)

    async def interrupt(self, row: Interrupted) -> str | None:
        self.written.append(row)
        return self.moved

    async def look(self, id_: uuid.UUID) -> tuple[str, str]:
        return "cancelled", "held"

    def __getattr__(self, name: str) -> Any:
        def noted(*args: Any, **named: Any) -> str:
            # A place is told by its request; a pool or a call in its stead says nothing here.
            first = (args[0].request,) if isinstance(args[0], Place) else ()
            self.told.append((name, *first, *args[1:], *named.values()))
            return REPLICA

        return noted


def call(**stands: Any) -> Call:
    caller: Any = SimpleNamespace(token_id=1, user_id=2, project_id=3, weight=1.0)
    ex: Any = SimpleNamespace(request_id="r", kept=None, content_at=None)
    asked = Asked(CHAT, "m", False, False, b"{}")
    progress = Progress(uuid.uuid4(), datetime.now(UTC), **stands)
    who: Caller = caller
    return Call(ex, asked, who, "pool", 0, "", False, time.monotonic(), progress)


def settlement(hands: Any, poison_after: int = 3) -> Settlement:
    return Settlement("gw", hands, hands, hands, hands, hands, poison_after)


def running(**stands: Any) -> Call:
    route = Route(REPLICA, "http://n", "p", 4)
    return call(route=route, granted_at=datetime.now(UTC), **stands)


def test_an_answer_ends_the_call_and_says_what_was_used() -> None:
    hands, one = Hands(), running(has_row=True, attempt=2)
    assert settlement(hands).ends(one, End("done", 200, usage=Usage(5, 7)))
    (end,) = hands.written
    assert isinstance(end, Finish) and (end.attempt, end.state, end.completion_tokens) == (2, "done", 7)
    assert hands.told == [("forget", "r"), ("leave", 12)]
    assert one.progress.ended
    settlement(hands).give_up(one, ApiError("internal"))
    assert len(hands.written) == 1, "it ends once"


def test_an_engines_refusal_costs_nothing_and_its_own_fault_is_not_known_to() -> None:
    for code, status, used in (("engine_rejected", 400, 0), ("engine_error", 502, None)):
        hands, one = Hands(), running(has_row=True, attempt=1)
        with pytest.raises(ApiError):
            settlement(hands).ends(
                one, End("failed", status, error=ApiError(code, detail="x", status=status))
            )
        assert [move.state for move in hands.written] == ["failed"] and hands.told[-1] == ("leave", used)


async def test_a_lost_try_goes_back_and_leaves_the_route_or_waits_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("portal.gateway.settlement._PAUSE_S", 0.0)
    for why, dropped in (("connection", True), ("full", False)):
        hands, one = Hands(), running(has_row=True, attempt=1)
        await settlement(hands).step_back(one, End("refused", 503, why))
        (row,) = hands.written
        assert isinstance(row, Interrupted) and row.reason == f"refused: {why}"
        assert [what for what, *_ in hands.told] == (["drop_route"] if dropped else []) + ["release"]
        assert one.progress.route is None and not one.progress.ended and one.progress.attempt == 0


async def test_an_engine_that_dies_too_often_under_it_ends_it() -> None:
    hands, one = Hands(), running(crashes=2)
    with pytest.raises(ApiError, match="poison"):
        await settlement(hands).step_back(one, End("lost", why="crash"))
    assert not hands.written, "it has no row: its flow gives it up"
    hands, one = Hands("failed"), running(has_row=True, attempt=1, crashes=2)
    with pytest.raises(ApiError, match="poison"):
        await settlement(hands).step_back(one, End("lost", why="crash"))
    assert one.progress.ended, "the ledger has ended it"


async def test_a_row_that_is_somebody_elses_is_left_to_them() -> None:
    hands, one = Hands(None), running(has_row=True, attempt=1)
    with pytest.raises(ApiError) as caught:
        await settlement(hands).step_back(one, End("lost", why="gone"))
    assert caught.value.code == "cancelled" and one.progress.ended


GIVEN_UP = [
    ({"has_row": True}, "", "model_unavailable", EndQueued),
    ({"has_row": True}, "", "database_unavailable", Cancel),
    ({"has_row": True}, "left", "cancelled", Cancel),
    ({"has_row": True, "attempt": 1}, "left", "cancelled", Finish),
    ({}, "", "queue_unavailable", None),
]


@pytest.mark.parametrize(("stands", "stopped", "code", "written"), GIVEN_UP)
def test_giving_up_writes_the_end_from_wherever_it_had_come_to(
    stands: dict[str, Any], stopped: Any, code: str, written: type | None
) -> None:
    hands, one = Hands(), call(stopped=stopped, **stands)
    settlement(hands).give_up(one, ApiError(code))
    assert [type(move) for move in hands.written] == ([written] if written else [])
    assert one.progress.ended and ("forget", "r") in hands.told


def test_who_is_told_to_come_again_keeps_its_place() -> None:
    hands, one = Hands(), call(has_row=True)
    settlement(hands).give_up(one, ApiError("model_starting"))
    assert not hands.written and hands.told == [("forget", "r"), ("leave_ticket",)]


def test_a_server_that_stops_gives_its_running_rows_back() -> None:
    hands, one = Hands(), running(has_row=True, attempt=1)
    assert settlement(hands).broken_off(one).code == "detached"
    (row,) = hands.written
    assert isinstance(row, Interrupted) and one.progress.ended
    assert settlement(Hands()).broken_off(call()).code == "shutting_down"


# Who may say that a call is over. `background` hands its rows to the pilots, which end them.
MAY_END = {"portal/gateway/settlement.py", "portal/gateway/background.py"}


def ends(path: str, source: str) -> list[str]:
    """Return the lines that write the end of a call."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assign(targets=targets):
                writes = any(ast.unparse(target).endswith("progress.ended") for target in targets)
            case ast.Call(func=ast.Attribute(attr="recorded" | "finished") | ast.Name(id="EndQueued")):
                writes = True
            case _:
                writes = False
        if writes:
            found.append(f"{path}:{node.lineno}")  # type: ignore[attr-defined]  # of a statement or a call
    return found


def test_no_other_module_of_the_gateway_writes_an_end() -> None:
    found = {
        path
        for path, source in modules("portal")
        if path.startswith("portal/gateway/") and path.endswith(".py") and ends(path, source)
    }
    assert found == MAY_END
    planted = "def f(call):\n    call.progress.ended = True\n    writer.later(call.finished('gw', o, now))\n"
    assert ends("x.py", planted) == ["x.py:2", "x.py:3"]
