"""Batches on the real gpuworker with its echo engine: held work goes first, a killed job loses and doubles nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from datetime import UTC, datetime
from pathlib import Path

from openai.types import Batch

from gpuworker import proctree
from portal.ledger import transitions
from tests.flow.batch_world import create, jsonl, line, look, read, requests_of, state
from tests.flow.dataplane import Plane, until
from tests.flow.gpuworker_job import START_S, job, planned


async def _over(plane: Plane, batch: str) -> Batch:
    """Return the batch once it is over, with the looks that the beat would send."""

    def done() -> bool:
        return not {"queued", "running"} & set(requests_of(plane).values())

    await until(done, "the last line", START_S)
    await look(plane)
    return await state(plane, batch)


async def test_held_requests_are_answered_while_a_batch_runs(plane: Plane, tmp_path: Path) -> None:
    pilot, _ = planned(plane, '{"load_s": 0.2, "tokens_per_s": 5}')
    batch = await create(plane, jsonl(*(line(f"{i:02}", "one two three") for i in range(40))))
    await look(plane)
    with job(plane, pilot, tmp_path):
        await until(lambda: "done" in requests_of(plane).values(), "the first line", START_S)
        for _ in range(3):
            async with plane.post() as answer:
                assert answer.status == 200
        # Both places are the batch's, and it has lines to fill them with for seconds to come.
        left = [state for state in requests_of(plane).values() if state == "queued"]
        assert len(left) > 10
        ended = await _over(plane, batch.id)
    assert ended.status == "completed"
    output = await read(plane, ended.output_file_id)
    assert sorted(said["custom_id"] for said in output) == [f"{i:02}" for i in range(40)]
    assert all(said["response"]["body"]["choices"][0]["message"]["content"] for said in output)
    assert plane.sql(
        "SELECT count(*) FROM ledger_request WHERE lane = 'batch' AND completion_tokens = 3"
    ) == [(40,)]


async def test_a_job_that_is_killed_loses_no_line_and_doubles_none(plane: Plane, tmp_path: Path) -> None:
    pilot, _ = planned(plane)
    batch = await create(plane, jsonl(*(line(f"{i:03}", f"text {i}") for i in range(600))))
    await look(plane)
    with job(plane, pilot, tmp_path) as running:
        await until(lambda: list(requests_of(plane).values()).count("done") > 50, "some lines", START_S)
        left = proctree.descendants(running.pid)
        running.kill()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.wait()
    # As the control loop does when Slurm says so.
    now = datetime.now(UTC)
    plane.sql("UPDATE fleet_replica SET state = 'stopped', ended_at = now()")
    plane.sql("UPDATE fleet_pilot SET state = 'ended', ended_at = now(), end_reason = 'killed'")
    with plane.pg.cursor() as cur:
        transitions.release(cur, uuid.UUID(pilot), now, "killed")
    plane.pg.commit()
    await look(plane)
    partial = await state(plane, batch.id)
    assert (
        partial.status == "in_progress" and partial.request_counts and partial.request_counts.completed > 50
    )

    again, _ = planned(plane)
    (tmp_path / "again").mkdir()
    with job(plane, again, tmp_path / "again"):
        ended = await _over(plane, batch.id)
    assert ended.status == "completed" and ended.error_file_id is None
    output = await read(plane, ended.output_file_id)
    assert sorted(said["custom_id"] for said in output) == [f"{i:03}" for i in range(600)]
