"""A service that outlives its jobs: constant load on one model while three-minute jobs hand over to each other.

failed         requests without their whole and right answer
extra_gpu_pct  (allocated GPU-seconds ÷ (GPUs needed × window) − 1) × 100; allocated: from Slurm's start and end of
               each job, as far as it lies in the window. The load needs one GPU
expiries       jobs that ended in the window
slowest_s      the longest that a request took, of `requests`
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

import psycopg2
from devstack import ask
from devstack.bench import Bench
from devstack.berth import Berth
from devstack.procs import wait_until
from devstack.say import StepFailed
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

TITLE = "hand-over of one model from job to job, three-minute walltimes, constant load"
TIME_LIMIT_S = 1500
WINDOW_S = 960
EXPIRIES = 5
WALLTIME_MIN, LOAD_S = 3, 3
CLIENTS = 6  # every second one streams
POOL, WORDS = "echo", " ".join(f"word{number}" for number in range(20))
ANSWER_LIMIT_S = 120


@dataclass
class Load:
    """The load of a handover: what the clients saw. `took`: (when it ended, seconds, None or what went
    wrong)."""

    took: list[tuple[float, float, str | None]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Job:
    id: int
    gpus: int
    start: float
    end: float  # of one that runs: when it will

    def inside(self, first: float, last: float) -> float:
        return self.gpus * max(0.0, min(self.end, last) - max(self.start, first))


def run(ctx: Bench) -> dict[str, float]:
    # Ended jobs stay listed for longer than the window: their ends are what is measured.
    with ctx.berth(SlurmSpec(nodes=2, gpus=2, min_job_age_s=7200)) as berth:
        assert berth.stack.slurm is not None
        set_up(berth)
        with ctx.progress.step("Bring the model up"):
            whole(berth)
        load = Load()
        clients = [
            threading.Thread(target=client, args=(berth, load, number % 2 == 0)) for number in range(CLIENTS)
        ]
        first = time.time()
        for thread in clients:
            thread.start()
        try:
            with ctx.progress.step(f"{CLIENTS} clients for {WINDOW_S} s"):
                wait_until(lambda: not any(thread.is_alive() for thread in clients), WINDOW_S)
        finally:
            last = time.time()
            load.over.set()
            for thread in clients:
                thread.join()
        jobs = [job for job in jobs_of(berth.stack.slurm) if job.inside(first, last) > 0]
        decisions = told(berth, first)
    rows = [(j.id, j.start - first, j.end - first, j.inside(first, last)) for j in jobs]
    ctx.table(["job", "start s", "end s", "GPU-s in the window"], rows)
    for at, reason in decisions:
        ctx.say(f"  {at - first:6.0f} s  {reason}")
    wrong = [(at - first, why) for at, _, why in load.took if why is not None]
    for at, why in wrong[:10]:
        ctx.say(f"  failed at {at:.0f} s: {why}")
    expiries = sum(first < job.end <= last for job in jobs)
    if expiries < EXPIRIES:
        raise StepFailed(f"only {expiries} jobs ended in the window; {EXPIRIES} are to be seen")
    return {
        "failed": len(wrong),
        "extra_gpu_pct": round(100 * (sum(row[-1] for row in rows) / (last - first) - 1), 1),
        "expiries": expiries,
        "requests": len(load.took),
        "slowest_s": round(max(took for _, took, _ in load.took), 2),
    }


def set_up(berth: Berth) -> None:
    """Set up jobs of one GPU and three minutes, and an engine whose answers take about a second."""
    args = json.dumps({"load_s": LOAD_S, "tokens_per_s": 20.0})
    with psycopg2.connect(berth.stack.env()["BERTH_DATABASE_URL"]) as link, link.cursor() as cur:
        cur.execute(
            "UPDATE catalog_profile SET gpus = 1, walltime_min = %s, walltime_least_min = %s",
            (WALLTIME_MIN, WALLTIME_MIN),
        )
        cur.execute(
            "UPDATE catalog_pool SET args = %s, load_estimate_s = %s WHERE name = %s", (args, LOAD_S, POOL)
        )
    link.close()


def client(berth: Berth, load: Load, streams: bool) -> None:
    """Send one request after the other until it is over."""
    while not load.over.is_set():
        began = time.monotonic()
        why = None
        try:
            text = streamed(berth) if streams else whole(berth)
            if text != WORDS:
                why = f"not the answer: {text!r}"
        except (StepFailed, OSError, http.client.HTTPException, ValueError, LookupError) as error:
            why = f"{'stream' if streams else 'no stream'}: {error!r}"
        load.took.append((time.time(), time.monotonic() - began, why))


def streamed(berth: Berth) -> str:
    return ask.ask(berth.site.url, berth.token, POOL, WORDS, lambda _text: None).text


def whole(berth: Berth) -> str:
    """Ask without streaming. Raise StepFailed on another status than 200."""
    body = {"model": POOL, "messages": [{"role": "user", "content": WORDS}], "max_tokens": 96}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {berth.token}"}
    connection = http.client.HTTPConnection(urlsplit(berth.site.url).netloc, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise StepFailed(f"{answer.status}: {said[:300]!r}")
    return str(json.loads(said)["choices"][0]["message"]["content"])


def jobs_of(slurm: Slurm) -> list[Job]:
    """List every job that has started, in the order of their ids, with its GPUs and Slurm's times."""
    found = []
    for line in slurm.run("squeue", "-a", "-h", "-t", "all", "-o", "%A|%b|%S|%e").splitlines():
        id_, gres, start, end = line.split("|")
        if "T" in start and "T" in end:
            started, ended = (datetime.fromisoformat(text).timestamp() for text in (start, end))
            found.append(Job(int(id_), int(gres.rpartition(":")[2]), started, ended))
    return sorted(found, key=lambda job: job.id)


def told(berth: Berth, since: float) -> list[tuple[float, str]]:
    """List the loop's decisions, in its words."""
    with psycopg2.connect(berth.stack.env()["BERTH_DATABASE_URL"]) as link, link.cursor() as cur:
        cur.execute(
            """SELECT extract(epoch FROM at), kind || ': ' || reason FROM fleet_decision
               WHERE at > to_timestamp(%s) ORDER BY id""",
            (since,),
        )
        rows = [(float(at), str(said)) for at, said in cur.fetchall()]
    link.close()
    return rows
