"""A large batch in jobs that anybody may interrupt: 20,000 lines, and from a seed jobs are preempted or cancelled.

The pool has preemptible jobs only, of one GPU each. Every few seconds one of them is picked: either a job of higher
priority asks for all GPUs of its node, or somebody cancels it, or all its processes are killed without a word.

lost, doubled   lines of the input without their answer, and lines of the output that are there twice: both 0
wasted_gpu_pct  GPU-seconds of interrupted work over all, in per cent: each line in flight has the same share of its
                GPU, so this is the time that lines had run when they were interrupted, over the time that all ran
interruptions   jobs that were ended so, while they ran
gpu_s           GPU-seconds that Slurm gave to our jobs, from their starts to their ends
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg2
from devstack import ask
from devstack.bench import Bench
from devstack.berth import Berth
from devstack.say import StepFailed
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from tests.bench.batch import call, create, upload
from tests.bench.handover import jobs_of, told

TITLE = "a batch of 20,000 lines under random preemption"
TIME_LIMIT_S = 1500
LINES, EVERY_S, SEED = 20_000, 10.0, 11
LEAST_INTERRUPTIONS = 10
POOL, CAP, REPLICAS, WORDS = "echo", 32, 3, 16
TOKENS_PER_S, LOAD_S = 40.0, 1.0
RIVAL_S = 6
LIMIT_S = 1200
LOOK_S = 0.25
_RUNNING = """SELECT r.id::text, r.attempt, extract(epoch FROM r.granted_at), p.job_id
              FROM ledger_request r JOIN fleet_pilot p ON p.id::text = r.holder WHERE r.state = 'running'"""
_REQUEUED = """SELECT request_id::text, attempt, extract(epoch FROM at) FROM ledger_requestevent
               WHERE kind = 'requeue'"""
_DONE = """SELECT coalesce(sum(extract(epoch FROM ended_at - granted_at)), 0) FROM ledger_request WHERE state = 'done'"""


@dataclass
class Seen:
    """The observations while the batch ran. `granted`: (request, attempt) → when it was handed out, to
    which job."""

    granted: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    interrupted: dict[int, str] = field(default_factory=dict)  # job → how


def run(ctx: Bench) -> dict[str, float]:
    return measure(ctx, LINES, EVERY_S, LEAST_INTERRUPTIONS)


def measure(ctx: Bench, lines: int, every_s: float, least: int) -> dict[str, float]:
    """Measure the same with other numbers. Raise StepFailed when fewer than `least` jobs were interrupted."""
    spec = SlurmSpec(nodes=2, gpus=2, preemption=True, sched_interval_s=1, kill_wait_s=5, min_job_age_s=7200)
    with ctx.berth(spec) as berth:
        assert berth.stack.slurm is not None
        began = time.time()
        with linked(berth) as cur:
            set_up(cur)
            file = write_lines(ctx.folder / "lines.jsonl", lines)
            batch = create(berth.site.url, berth.token, upload(berth.site.url, berth.token, file))
            seen = Seen()
            with ctx.progress.step(f"{lines:,} lines, a job interrupted about every {every_s:g} s"):
                batch = storm(berth, berth.stack.slurm, cur, batch, seen, every_s)
            lost, doubled = compare(berth, batch, lines)
            jobs = jobs_of(berth.stack.slurm)
            ends = {job.id: job.end for job in jobs}
            wasted_s, useful_s = work(cur, seen, ends)
        for job, how in seen.interrupted.items():
            ctx.say(f"  job {job}: {how}")
        decisions = [reason for _, reason in told(berth, began)]
    if len(seen.interrupted) < least:
        raise StepFailed(f"only {len(seen.interrupted)} jobs were interrupted; {least} are to be seen")
    ctx.say(
        f"  {len(decisions)} decisions; lines ran {useful_s:,.0f} s to their ends, and {wasted_s:,.0f} s in vain"
    )
    return {
        "lost": lost,
        "doubled": doubled,
        "wasted_gpu_pct": round(100 * wasted_s / (wasted_s + useful_s), 2),
        "interruptions": len(seen.interrupted),
        "lines": lines,
        "took_s": round(time.time() - began),
        "gpu_s": round(
            sum(job.gpus * max(0.0, min(job.end, time.time()) - job.start) for job in jobs if mine(job.gpus))
        ),
    }


def mine(gpus: int) -> bool:
    """Tell whether a job is ours: it has one GPU, those of higher priority all of their node's."""
    return gpus == 1


@contextlib.contextmanager
def linked(berth: Berth) -> Iterator[Any]:
    link = psycopg2.connect(berth.stack.env()["BERTH_DATABASE_URL"])
    link.autocommit = True
    try:
        with link.cursor() as cur:
            yield cur
    finally:
        link.close()


def set_up(cur: Any) -> None:
    cur.execute(
        """UPDATE catalog_profile SET partition = 'spare', preemptible = true, gpus = 1, max_pilots = %s,
             walltime_min = 30, walltime_least_min = 30""",
        (REPLICAS,),
    )
    args = json.dumps({"load_s": LOAD_S, "tokens_per_s": TOKENS_PER_S})
    cur.execute(
        """UPDATE catalog_pool SET args = %s, load_estimate_s = %s, cap = %s, max_replicas = %s WHERE name = %s""",
        (args, LOAD_S, CAP, REPLICAS, POOL),
    )


def text_of(number: int) -> str:
    return " ".join(f"w{number}x{word}" for word in range(WORDS))


def write_lines(path: Path, count: int) -> Path:
    """Write lines, each with words of its own, which its answer repeats."""
    with path.open("w") as out:
        for number in range(count):
            body = {
                "model": POOL,
                "messages": [{"role": "user", "content": text_of(number)}],
                "max_tokens": WORDS,
            }
            line = {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            out.write(json.dumps(line) + "\n")
    return path


def storm(
    berth: Berth, slurm: Slurm, cur: Any, batch: dict[str, Any], seen: Seen, every_s: float
) -> dict[str, Any]:
    """Interrupt jobs until the batch is over; return what became of it."""
    rng = Random(SEED)
    deadline, next_at = time.monotonic() + LIMIT_S, time.monotonic() + every_s
    while batch["status"] in ("validating", "in_progress", "finalizing"):
        if time.monotonic() > deadline:
            raise StepFailed(f"the batch is not over: {batch['status']}, {batch['request_counts']}")
        cur.execute(_RUNNING)
        rows = cur.fetchall()
        for request, attempt, granted_at, job in rows:
            seen.granted[request, attempt] = float(granted_at), int(job)
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + rng.expovariate(1 / every_s)
            if serving := sorted({job for *_, job in rows} - set(seen.interrupted)):
                interrupt(slurm, rng.choice(serving), rng, seen)
        time.sleep(LOOK_S)
        batch = ask.get_json(berth.site.url, berth.token, f"/v1/batches/{batch['id']}")
    return batch


def interrupt(slurm: Slurm, job: int, rng: Random, seen: Seen) -> None:
    node = slurm.run("squeue", "-h", "-t", "RUNNING", "-j", str(job), "-o", "%N").strip()
    if not node:
        return
    how = rng.choice(("preempted", "preempted", "cancelled", "killed"))
    if how != "preempted":
        slurm.run("scancel", *(("--signal=KILL", "--full") if how == "killed" else ()), str(job))
        seen.interrupted[job] = how
        return
    beside = slurm.run("squeue", "-h", "-t", "RUNNING", "-w", node, "-p", "spare", "-o", "%A").split()
    slurm.run(
        "sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", "--partition=gpu", f"--nodelist={node}",
        f"--gres=gpu:a100:{slurm.spec.gpus}", "--mem=1000", "--time=1", f"--wrap=sleep {RIVAL_S}",
    )  # fmt: skip
    seen.interrupted |= dict.fromkeys(map(int, beside), f"preempted on {node}")


def compare(berth: Berth, batch: dict[str, Any], lines: int) -> tuple[int, int]:
    """Count lines without their own answer, and answers that are there twice."""
    if batch["status"] != "completed":
        raise StepFailed(f"the batch ended as {batch['status']}: {batch['request_counts']}")
    output = call(berth.site.url, berth.token, "GET", f"/v1/files/{batch['output_file_id']}/content")
    answered: dict[str, int] = {}
    for line in output.splitlines():
        said = json.loads(line)
        answer = said["response"]
        number = int(said["custom_id"].removeprefix("line-"))
        if answer and answer["status_code"] == 200:
            text = answer["body"]["choices"][0]["message"]["content"]
            if text == text_of(number):
                answered[said["custom_id"]] = answered.get(said["custom_id"], 0) + 1
    return lines - len(answered), sum(times - 1 for times in answered.values())


def work(cur: Any, seen: Seen, ends: dict[int, float]) -> tuple[float, float]:
    """Sum the seconds that lines ran in vain, and to their ends.

    What was requeued later than its job ended ran until then.
    """
    cur.execute(_REQUEUED)
    wasted_s = 0.0
    for request, attempt, at in cur.fetchall():
        granted_at, job = seen.granted.get((request, attempt), (float(at), 0))
        wasted_s += max(0.0, min(float(at), ends.get(job, float(at))) - granted_at)
    cur.execute(_DONE)
    return wasted_s, float(cur.fetchone()[0])
