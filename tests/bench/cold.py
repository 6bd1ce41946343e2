"""From a question to a model that nobody has started, to its first token: how much of it is Berth's own.

overhead_s    = POST to first token − (job running − job submitted) − (engine healthy − engine started): what
                is left when Slurm's wait and vLLM's load are taken away. Median of cold starts.
reuse_ttft_ms = POST to first token once the model is hot. Median.
"""

from __future__ import annotations

import statistics
from datetime import datetime
from typing import Any

from devstack import ask
from devstack.bench import Bench
from devstack.berth import Berth
from devstack.procs import wait_until
from devstack.say import StepFailed

TITLE = "cold start of a real vLLM in a new Slurm job, and reuse of a hot one"
COLD_RUNS = 3
HOT_RUNS = 20
QUESTION = "What is Slurm?"


def run(ctx: Bench) -> dict[str, float]:
    rows: list[tuple[object, ...]] = []
    overheads: list[float] = []
    with ctx.berth() as berth:
        for number in range(1, COLD_RUNS + 1):
            forget(berth)
            row = cold(ctx, berth)
            overheads.append(row[-1])
            rows.append((number, *row))
        hot = [question(berth).first_token_s * 1000 for _ in range(HOT_RUNS)]
    ctx.table(["run", "first token s", "Slurm wait s", "engine load s", "overhead s"], rows)
    ctx.say(
        f"  hot: first token after {min(hot):.1f} / {statistics.median(hot):.1f} / {max(hot):.1f} ms (min/median/max)"
    )
    return {
        "overhead_s": round(statistics.median(overheads), 3),
        "reuse_ttft_ms": round(statistics.median(hot), 1),
        "cold_ttft_s": round(statistics.median(float(str(row[1])) for row in rows), 2),
    }


def question(berth: Berth, heard: Any = lambda text: None) -> ask.Answer:
    return ask.ask(berth.site.url, berth.token, berth.model, QUESTION, heard)


def cold(ctx: Bench, berth: Berth) -> tuple[float, float, float, float]:
    """Make one cold start; return the seconds to the first token, of Slurm's wait, of the load, and of
    what is left."""
    with ctx.progress.step("Ask a model that is not loaded"):
        answer = question(berth)
    path = f"/api/v1/requests/{answer.request_id}"
    detail: dict[str, Any] = {}

    def recorded() -> bool:
        detail.update(ask.get_json(berth.site.url, berth.token, path))
        return detail["timeline"]["done"] is not None

    if not wait_until(recorded, 10):
        raise StepFailed(f"the request {answer.request_id} has no end in the ledger")
    at = {
        name: datetime.fromisoformat(value)
        for name, value in detail["timeline"].items()
        if isinstance(value, str)
    }
    slurm_s = (at["job_running"] - at["job_submitted"]).total_seconds()
    load_s = (at["engine_ready"] - at["engine_started"]).total_seconds()
    first_s = answer.first_token_s
    return round(first_s, 3), round(slurm_s, 3), round(load_s, 3), round(first_s - slurm_s - load_s, 3)


def forget(berth: Berth) -> None:
    """End all jobs and wait until the portal knows that the model is not loaded."""
    assert berth.stack.slurm is not None
    berth.stack.slurm.cancel_jobs()

    def gone() -> bool:
        listing = ask.get_json(berth.site.url, berth.token, "/v1/models")
        mine = next(model for model in listing["data"] if model["id"] == berth.model)
        return bool(mine["berth"]["residency"] == "not_loaded")

    if not wait_until(gone, 60):
        raise StepFailed("the model is still said to be loaded a minute after its job ended")
