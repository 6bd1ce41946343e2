"""Tickets and keys in SQL: each place has one taker, each key one request, also when a COMMIT is not answered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg2.extensions import connection as Connection

from portal.gateway.writer import Writer
from portal.ledger import repeats
from portal.ledger.repeats import Away, ClaimTicket, PutBack, Remember, Remembered, Ticketed
from tests.db.test_gateway_writer import GATEWAY, LosingLink, _new, _state

SOON = timedelta(hours=1)


@pytest.fixture
async def writer(test_dsn: str) -> AsyncIterator[Writer]:
    made = Writer(test_dsn, GATEWAY, poison_after=3)
    made.start()
    yield made
    await made.stop()


async def away(writer: Writer, digest: str = "d", for_s: float = 60.0) -> uuid.UUID:
    row = _new()
    await writer.accept(row)
    until = datetime.now(UTC) + timedelta(seconds=for_s)
    await writer.repeat(Away(row.id, GATEWAY, 1, digest, until))
    return row.id


async def claim(writer: Writer, digest: str = "d", token: int = 1) -> uuid.UUID | None:
    ticket = await writer.repeat(ClaimTicket(uuid.uuid4(), GATEWAY, token, digest))
    assert ticket is None or isinstance(ticket, Ticketed)
    return ticket.request if ticket is not None else None


async def test_places_are_had_back_oldest_first_and_once_each(writer: Writer) -> None:
    first, second = await away(writer), await away(writer)
    assert await claim(writer, "other") is None
    assert await claim(writer, token=2) is None
    assert [await claim(writer) for _ in range(3)] == [first, second, None]


async def test_many_at_once_get_different_places(writer: Writer) -> None:
    places = {await away(writer) for _ in range(5)}
    taken = await asyncio.gather(*(claim(writer) for _ in range(8)))
    assert sorted(map(str, filter(None, taken))) == sorted(map(str, places))
    assert taken.count(None) == 3


async def test_a_place_that_could_not_be_used_is_put_back(writer: Writer) -> None:
    place = await away(writer)
    move = ClaimTicket(uuid.uuid4(), GATEWAY, 1, "d")
    assert await writer.repeat(move) is not None
    writer.later(PutBack(move.id))
    assert await claim(writer) == place


async def test_an_expired_place_is_not_given_out(writer: Writer) -> None:
    await away(writer, for_s=0.0)
    assert await claim(writer) is None


async def test_nobody_is_away_whose_request_is_not_waiting_here(writer: Writer, pg: Connection) -> None:
    row = _new(holder="gw-other")
    await writer.accept(row)
    await writer.repeat(Away(row.id, GATEWAY, 1, "d", datetime.now(UTC) + SOON))
    assert await claim(writer) is None


async def test_a_claim_whose_commit_was_not_answered_finds_its_place_again(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await away(writer)
    real = writer._connection
    links: list[LosingLink] = []

    def first_loses() -> Connection:
        if links:
            return real()
        links.append(LosingLink(real()))
        return links[0]  # type: ignore[return-value]

    monkeypatch.setattr(writer, "_connection", first_loses)
    assert await claim(writer) == place
    assert links[0].losses == 1


async def test_a_key_remembered_twice_by_the_same_try_is_its_own(writer: Writer) -> None:
    move = Remember(uuid.uuid4(), 1, "k", "d", datetime.now(UTC) + SOON)
    mine = Remembered(move.id, "d")
    assert await writer.repeat(move) == mine
    assert await writer.repeat(move) == mine
    other = Remember(uuid.uuid4(), 1, "k", "e", datetime.now(UTC) + SOON)
    assert await writer.repeat(other) == mine


async def test_one_of_many_takes_over_from_a_request_that_gave_no_answer(writer: Writer) -> None:
    was = uuid.uuid4()
    until = datetime.now(UTC) + SOON
    await writer.repeat(Remember(was, 1, "k", "d", until))
    tries = [Remember(uuid.uuid4(), 1, "k", "d", until, instead_of=was) for _ in range(5)]
    answers = await asyncio.gather(*(writer.repeat(move) for move in tries))
    assert len({answer.request for answer in answers if isinstance(answer, Remembered)}) == 1
    assert was not in [answer.request for answer in answers if isinstance(answer, Remembered)]


async def test_a_key_is_free_after_its_time(writer: Writer) -> None:
    await writer.repeat(Remember(uuid.uuid4(), 1, "k", "d", datetime.now(UTC)))
    again = Remember(uuid.uuid4(), 1, "k", "e", datetime.now(UTC) + SOON)
    assert await writer.repeat(again) == Remembered(again.id, "e")


async def test_the_sweep_ends_only_those_whose_client_is_away(writer: Writer, pg: Connection) -> None:
    gone, back, detached = [await away(writer, name) for name in ("a", "b", "c")]
    assert await claim(writer, "b") == back
    with pg.cursor() as cur:
        cur.execute("UPDATE ledger_request SET lane = 'async', holder = NULL WHERE id = %s", (detached,))
        assert repeats.expire(cur, datetime.now(UTC) + SOON) == [gone]
    pg.commit()
    assert (await _state(pg, gone, "expired"))["error_code"] == "ticket_expired"
    for id_ in (back, detached):
        await _state(pg, id_, "queued")
