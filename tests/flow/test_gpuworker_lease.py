"""The pull path: rows leased from a portal, run on an engine, their results posted once and kept until taken."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gpuworker import wire
from tests.flow.gpuworker_job import fence, serving
from tests.flow.gpuworker_portal import chat_body, echo, row, until

CHAT = "/v1/chat/completions"
LONG = "word " * 400


async def test_leased_rows_run_and_their_results_are_posted(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(cap=2)) as (portal, _, _):
        await portal.put(*(row(f"q{n}", f"text number {n}") for n in range(20)))
        for n in range(20):
            result = await portal.result(f"q{n}")
            assert (result.outcome, result.status, result.error_code) == ("done", 200, "")
            assert json.loads(result.body)["choices"][0]["message"]["content"] == f"text number {n}"
            assert (result.prompt_tokens, result.completion_tokens) == (3, 3)
        assert len(portal.results) == 20
        # As many again as there are seats, where rows end this fast.
        assert all(0 < room <= 4 for ask in portal.asks for room in ask.room.values())
        await until(lambda: portal.syncs[-1].rows == [], "no rows held in a sync")


async def test_pulled_work_leaves_seats_to_held_work_and_never_exceeds_the_cap(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(cap=2, args={"tokens_per_s": 10.0})) as (portal, job, client):
        await portal.put(*(row(f"q{n}", "a b c d e f g h i j") for n in range(6)))
        await until(lambda: (s := portal.seen()) and s.filler == 2, "both seats filled")
        # Held work still gets in: the spare seats are above the cap, for it alone.
        async with client.post(CHAT, data=chat_body("me first"), headers=fence("held")) as answer:
            assert answer.status == 200
        for n in range(6):
            await portal.result(f"q{n}")
        assert max(s.replicas[0].filler for s in portal.syncs if s.replicas) == 2
        assert (await job.engine_stats())["seen"] == 7


async def test_the_engines_refusal_and_garbage_fail_the_row(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"garbage_on_text": "noise"})) as (portal, _, _):
        bad_model = json.dumps({"model": "other", "messages": []}).encode()
        await portal.put(
            wire.LeasedRow("q1", 1, "r1", CHAT, False, bad_model),
            row("q2", "noise"),
            wire.LeasedRow("q3", 1, "r1", CHAT, False, b"[1]"),
            wire.LeasedRow("q4", 1, "r1", "/stats", False, b"{}"),
        )
        first = await portal.result("q1")
        assert (first.outcome, first.status, first.error_code) == ("failed", 404, "engine_refused")
        assert "other" in json.loads(first.body)["error"]["message"]
        second = await portal.result("q2")
        assert (second.outcome, second.error_code) == ("failed", "engine_bad_answer")
        assert (await portal.result("q3")).error_code == "invalid_body"
        assert (await portal.result("q4")).error_code == "unknown_api"


async def test_an_engine_that_dies_gives_its_rows_back_as_crashed(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"crash_on_text": "boom", "hang_on_text": "hang"})) as (
        portal,
        _,
        _,
    ):
        await portal.put(row("q1", "hang"))
        await until(lambda: (s := portal.seen()) and s.filler == 1, "the first row runs")
        await portal.put(row("q2", "boom"))
        for name in ("q1", "q2"):
            result = await portal.result(name)
            assert (result.outcome, result.crashed) == ("back", True)


async def test_a_suspect_row_runs_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(cap=4, args={"tokens_per_s": 30.0})) as (portal, _, _):
        await portal.put(row("q1", "a b c d e f g h i j"), row("suspect", "a b c", alone=True))
        first, suspect = await portal.result("q1"), await portal.result("suspect")
        assert suspect.outcome == "done"
        # Three tokens at 30 per second take 0.1 s: it began after the other had ended.
        assert suspect.ended_at - first.ended_at > 0.09


async def test_results_wait_for_a_portal_that_is_down(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, _, _):
        portal.results_status = 503
        await portal.put(row("q1", "kept"))
        await until(lambda: portal.refused_results >= 2, "the results call was tried again")
        held = await until(lambda: portal.syncs[-1].rows, "the row is still named in syncs")
        assert held == [wire.RowRef("q1", 1)]
        portal.results_status = 200
        assert (await portal.result("q1")).outcome == "done"
        assert len(portal.results) == 1


async def test_a_cancelled_row_is_dropped_by_the_engine(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"hang_on_text": "hang"})) as (portal, job, _):
        await portal.put(row("q1", "hang", attempt=3))
        await until(lambda: (s := portal.seen()) and s.filler == 1, "the row runs")
        portal.set(cancels=[wire.Cancel("q1", 2)])
        seq = portal.syncs[-1].seq
        await until(lambda: portal.syncs[-1].seq >= seq + 2, "two more syncs")
        assert portal.syncs[-1].rows == [wire.RowRef("q1", 3)], "another attempt's cancel must not end it"
        portal.set(cancels=[wire.Cancel("q1", 3)])
        result = await portal.result("q1")
        assert (result.outcome, result.error_code, result.crashed) == ("back", "cancelled", False)
        async with asyncio.timeout(30):
            while (await job.engine_stats())["aborted"] != 1:
                await asyncio.sleep(0.01)


async def test_an_older_attempt_that_comes_late_is_not_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, job, _):
        await portal.put(row("q1", "new", attempt=2))
        await portal.result("q1")
        portal.results.clear()
        await portal.put(row("q1", "old", attempt=1))
        result = await portal.result("q1")
        assert (result.attempt, result.outcome, result.error_code) == (1, "back", "stale")
        assert (await job.engine_stats())["seen"] == 1


async def test_rows_of_a_draining_replica_end_or_go_back(tmp_path: Path) -> None:
    async with serving(
        tmp_path, echo(cap=2, drain_limit_s=3.0, args={"hang_on_text": "hang", "tokens_per_s": 20.0})
    ) as started:
        portal, _, _ = started
        await portal.put(row("short", "w " * 30), row("long", "hang"))
        await until(lambda: (s := portal.seen()) and s.filler == 2, "both rows run")
        portal.set(desired=[])
        assert (await portal.result("short")).outcome == "done"
        long = await portal.result("long")
        assert (long.outcome, long.crashed) == ("back", False)
