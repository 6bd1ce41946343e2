"""A pilot's life as Slurm and the portal see it: register, syncs, drains, signals, crashes, the end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from gpuworker import exits, wire
from tests.flow.gpuworker_job import Worker, alive, fence, serving, worker
from tests.flow.gpuworker_portal import (
    KEY,
    TOKEN,
    WITHIN_S,
    FakePortal,
    chat_body,
    echo,
    fake_portal,
    row,
    until,
)

CHAT = "/v1/chat/completions"
AGENT = "gpuworker.agent"
ENGINE = "gpuworker.engines.echo_server"


async def test_it_registers_what_the_job_is(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        with worker(
            portal, tmp_path, env={"BERTH_STARTED_AT": "1700000000.25", "SLURM_MEM_PER_NODE": "4096"}
        ):
            said = await until(lambda: portal.registers, "a registration")
    assert (said[0].pilot, said[0].job_id, said[0].node) == ("pilot-1", 77, "gpu01")
    assert (said[0].started_at, said[0].host_mem_mb, said[0].gpus) == (1700000000.25, 4096, ["0", "1"])
    assert said[0].address.startswith("http://127.0.0.1:")
    assert said[0].agent_at > 1700000000.25


async def test_a_secret_on_standard_input_outlives_the_agent_that_read_it_and_not_the_job(
    tmp_path: Path,
) -> None:
    async with fake_portal() as portal:
        with worker(portal, tmp_path, carried=True) as job:
            await until(lambda: portal.syncs, "a sync")
            [kept] = job.scratch.glob("*/secret.json")
            assert kept.stat().st_mode & 0o777 == 0o600
            os.kill(job.pids(AGENT)[0], signal.SIGKILL)
            await until(lambda: len(portal.registers) >= 2, "a second agent, which read the same secret")
            job.send(signal.SIGTERM)
            await job.exit_code()
            assert not kept.exists()


async def test_it_waits_for_a_portal_that_is_down(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.register_status = 503
        with worker(portal, tmp_path):
            await until(lambda: len(portal.registers) >= 2, "a second try")
            portal.register_status = 200
            await until(lambda: portal.syncs, "a sync")


@pytest.mark.parametrize(("status", "code"), [(409, exits.LOST), (410, exits.LOST), (401, exits.REFUSED)])
async def test_the_loser_of_the_registration_exits(tmp_path: Path, status: int, code: int) -> None:
    async with fake_portal() as portal:
        portal.register_status = status
        with worker(portal, tmp_path) as job:
            assert await job.exit_code() == code
        assert len(portal.registers) == 1
        assert portal.syncs == []


async def test_a_portal_that_never_answers_ends_the_job(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.register_status = 500
        with worker(portal, tmp_path, env={"BERTH_REGISTER_LIMIT_S": "0.5"}) as job:
            assert await job.exit_code() == exits.SILENT


async def test_sigterm_is_heard_while_there_is_no_portal(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.register_status = 503
        with worker(portal, tmp_path) as job:
            # By the fifth try the pauses have grown to five seconds: told to end, it asks once more at once.
            await until(lambda: len(portal.registers) >= 5, "a fifth try")
            job.send(signal.SIGTERM)
            await until(lambda: len(portal.registers) >= 6, "a last try", 4)
            assert await job.exit_code() == exits.DONE


async def test_a_requeued_job_exits_before_it_says_anything(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        with worker(portal, tmp_path, env={"SLURM_RESTART_COUNT": "1"}) as job:
            assert await job.exit_code() == exits.RESTARTED_JOB
            assert "SLURM_RESTART_COUNT" in job.said()
        assert portal.registers == []


async def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        with worker(portal, tmp_path, secret_mode=0o640) as job:
            assert await job.exit_code() == exits.CONFIG
            assert "0600" in job.said()


async def test_what_changes_is_told_at_once(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        # With syncs every 60 s, only those sent at once can arrive within seconds.
        portal.set(desired=[echo(args={"load_s": 0.5})], interval_s=60.0)
        with worker(portal, tmp_path) as job:
            starting = await portal.state("starting", within_s=50)
            assert starting.hot_at is None
            await until(
                lambda: (s := portal.seen()) and s.phase == "loading weights", "the engine's words", 50
            )
            hot = await portal.state("hot", within_s=50)
            assert hot.started_at is not None
            assert hot.hot_at is not None
            assert 0.5 <= hot.hot_at - hot.started_at < 50
            assert hot.engine_version == "echo-1"
            for pid in job.pids(ENGINE):
                os.kill(pid, signal.SIGKILL)
            await portal.state("failed", within_s=50)
        assert [s.seq for s in portal.syncs] == sorted({s.seq for s in portal.syncs})


async def test_an_engine_that_does_not_start_fails_with_its_reason(tmp_path: Path) -> None:
    reasons: dict[str, tuple[dict[str, object], str]] = {
        "r1": ({"fail_on_start": True}, "told to fail on start"),
        "r2": ({"no_such_argument": 1}, "'no_such_argument' is not known to the echo engine"),
        "r3": ({"load_s": "soon"}, "not a valid float"),
    }
    async with fake_portal() as portal:
        portal.set(desired=[echo(name, args=args) for name, (args, _) in reasons.items()])
        with worker(portal, tmp_path) as job:
            for name, (_, words) in reasons.items():
                assert words in (await portal.state("failed", name)).error
            assert job.pids(ENGINE) == []


async def test_an_engine_that_loads_too_long_fails(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.set(desired=[echo(load_limit_s=0.3, args={"load_s": 60})])
        with worker(portal, tmp_path) as job:
            assert "not ready within" in (await portal.state("failed")).error
            await until(lambda: not job.pids(ENGINE), "no engine left")


async def test_replicas_come_and_go_inside_one_job(tmp_path: Path) -> None:
    async with serving(tmp_path, echo("r1"), echo("r2")) as (portal, job, _):
        portal.set(desired=[echo("r2"), echo("r3")])
        await portal.state("hot", "r3")
        await until(lambda: {r.id for r in portal.syncs[-1].replicas} == {"r2", "r3"}, "r1 forgotten")
        await until(lambda: len(job.pids(ENGINE)) == 2, "two engines")
        assert len(portal.registers) == 1


async def test_the_log_is_sent_when_asked_for_and_names_no_secret(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, _, client):
        async with client.post(CHAT, data=chat_body("a private question"), headers=fence()) as answer:
            assert answer.status == 200
        assert all(s.log_tail is None for s in portal.syncs)
        portal.set(want_log=True)
        text = await until(lambda: portal.syncs[-1].log_tail, "a log")
        assert "== job ==" in text
        assert "registered as pilot" in text
        assert "loading weights" in text
        assert len(text.encode()) <= 64 * 1024
        assert "a private question" not in text
        assert TOKEN not in text
        assert KEY not in text


async def test_the_portals_drain_lets_work_end_and_then_ends_the_job(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"tokens_per_s": 10.0})) as (portal, job, client):
        async with client.post(CHAT, data=chat_body("w " * 40, stream=True), headers=fence()) as answer:
            portal.set(drain=True)
            await until(lambda: portal.syncs[-1].draining, "a sync that says draining")
            async with client.post(CHAT, data=chat_body("x"), headers=fence("q2")) as refused:
                assert (refused.status, refused.headers[wire.HEADER_REFUSED]) == (503, "draining")
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert await job.exit_code() == exits.DONE
        _ended(portal, job, "drained")


async def test_before_the_deadline_rows_that_cannot_finish_go_back(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(drain_limit_s=2.0, args={"hang_on_text": "hang"})) as (portal, job, _):
        await portal.put(row("q1", "hang"))
        await until(lambda: (s := portal.seen()) and s.filler == 1, "the row runs")
        # 5 s are kept back and 2 s are for draining: the drain begins now and lasts a second.
        portal.set(deadline_at=time.time() + 6)
        result = await portal.result("q1")
        assert (result.outcome, result.crashed) == ("back", False)
        assert await job.exit_code() == exits.DONE
        _ended(portal, job, "walltime")


async def test_a_warning_is_only_a_hint_where_the_deadline_is_known(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, job, _):
        portal.set(deadline_at=time.time() + 600)
        seq = portal.syncs[-1].seq
        await until(lambda: portal.syncs[-1].seq >= seq + 2, "the deadline was heard")
        job.send(signal.SIGUSR2)
        await until(lambda: "SIGUSR2" in job.said(), "the signal was heard")
        seq = portal.syncs[-1].seq
        await until(lambda: portal.syncs[-1].seq >= seq + 2, "two more syncs")
        assert not portal.syncs[-1].draining
        # The same signal counts as soon as nobody knows a deadline any more.
        portal.set(deadline_at=None)
        assert await job.exit_code() == exits.DONE
        _ended(portal, job, "walltime")


async def test_late_signals_do_not_turn_a_clean_end_into_a_crash(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, job, _):
        portal.set(drain=True)
        while job.process.poll() is None:
            job.send(signal.SIGUSR2)
            await asyncio.sleep(0.001)
        assert job.process.returncode == exits.DONE
        assert len(portal.registers) == 1


async def test_preemption_gives_rows_back_first_and_lets_held_work_end(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"hang_on_text": "hang", "tokens_per_s": 10.0})) as (
        portal,
        job,
        client,
    ):
        await portal.put(row("q1", "hang"))
        await until(lambda: (s := portal.seen()) and s.filler == 1, "the row runs")
        async with client.post(CHAT, data=chat_body("w " * 40, stream=True), headers=fence("h")) as answer:
            await answer.content.readuntil(b"\n\n")
            job.send(signal.SIGTERM)
            result = await portal.result("q1")
            assert (result.outcome, result.error_code) == ("back", "preempted")
            assert job.process.poll() is None
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert await job.exit_code() == exits.DONE
        _ended(portal, job, "preempted")


async def test_a_signal_to_every_process_of_the_job_leaves_engines_to_the_agent(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"tokens_per_s": 10.0})) as (portal, job, client):
        async with client.post(
            CHAT, data=chat_body("a b c d e f g", stream=True), headers=fence("h")
        ) as answer:
            await answer.content.readuntil(b"\n\n")
            for pid in [*job.pids(AGENT), *job.wardens(), job.process.pid]:
                os.kill(pid, signal.SIGTERM)
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert await job.exit_code() == exits.DONE
        _ended(portal, job, "preempted")


async def test_a_pilot_that_the_portal_holds_for_ended_exits(tmp_path: Path) -> None:
    async with serving(tmp_path) as (portal, job, _):
        portal.sync_status = 410
        assert await job.exit_code() == exits.DONE


async def test_a_silent_portal_ends_an_idle_job_but_not_a_busy_one(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"tokens_per_s": 10.0}), env={"BERTH_PORTAL_SILENCE_S": "3"}) as (
        portal,
        job,
        client,
    ):
        async with client.post(CHAT, data=chat_body("w " * 45, stream=True), headers=fence()) as answer:
            portal.sync_status = 503
            # 4.5 s of answer outlast the silence.
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert await job.exit_code() == exits.DONE
        assert portal.syncs[-1].ending == "portal silent"


async def test_an_agent_killed_hard_starts_again_without_the_old_engines(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(args={"hang_on_text": "hang"})) as (portal, job, _):
        old_engines = job.pids(ENGINE)
        (agent,) = job.pids(AGENT)
        seq = portal.syncs[-1].seq
        os.kill(agent, signal.SIGKILL)
        await until(lambda: len(portal.registers) == 2, "a second registration")
        registered = len(portal.syncs)  # the old agent's last words, sent as it was killed, are among them
        assert not any(alive(pid) for pid in old_engines)
        assert (portal.registers[1].pilot, portal.registers[1].job_id) == ("pilot-1", 77)
        assert portal.registers[1].agent_at > portal.registers[0].agent_at
        await until(
            lambda: len(portal.syncs) > registered and (s := portal.seen()) and s.state == "hot", "hot again"
        )
        assert portal.syncs[-1].seq > seq
        async with aiohttp.ClientSession() as client:
            async with client.post(job.address + CHAT, data=chat_body("again"), headers=fence()) as answer:
                assert answer.status == 200


async def test_a_supervisor_killed_hard_takes_agent_and_engines_with_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, job, _):
        below = [*job.pids(AGENT), *job.wardens(), *job.pids(ENGINE)]
        assert len(below) == 3
        job.process.kill()
        await until(lambda: not any(alive(pid) for pid in below), "all gone")


def _ended(portal: FakePortal, job: Worker, why: str) -> None:
    last = portal.syncs[-1]
    assert last.ending == why
    assert {r.state for r in last.replicas} <= {"stopped"}
    assert last.rows == []
    assert list(job.scratch.iterdir()) == []


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
async def test_a_node_whose_clock_is_wrong_tells_the_portals_time_and_keeps_the_portals_deadline(
    tmp_path: Path, ahead_s: float
) -> None:
    async with fake_portal() as portal:
        portal.clock_ahead_s = ahead_s
        # By the node's own clock it is over already, or an hour off.
        portal.set(desired=[echo()], deadline_at=time.time() + ahead_s + 600)
        with worker(portal, tmp_path) as job:
            seen = await portal.state("hot")
            theirs = time.time() + ahead_s
            assert seen.started_at is not None and seen.hot_at is not None
            assert theirs - WITHIN_S < seen.started_at <= seen.hot_at < theirs + 1
            assert abs(portal.syncs[-1].at - theirs) < WITHIN_S
            assert not portal.syncs[-1].draining
            portal.set(deadline_at=time.time() + ahead_s + 6)
            assert await job.exit_code() == exits.DONE
        assert portal.syncs[-1].ending == "walltime"
