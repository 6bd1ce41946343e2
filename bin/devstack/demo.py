"""Turns a bare machine into one answered question, and shows everything that happened on the way.

The story that a person sees; what runs is made in `berth`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from devstack import ask
from devstack.berth import Berth, install, running
from devstack.checkout import run_dir
from devstack.procs import wait_until
from devstack.say import Progress, StepFailed, tail
from devstack.site import Site
from devstack.stack import interrupt_on_terminate

QUESTION = "What is Slurm?"
TIMELINE = {
    "accepted": "accepted",
    "job_submitted": "job submitted",
    "job_running": "job running",
    "engine_started": "engine loading",
    "engine_ready": "engine ready",
    "first_token": "first token",
    "done": "done",
}


@dataclass(frozen=True)
class Outcome:
    """One answered question. `timeline`: seconds since accepted, by step."""

    answer: str
    right: bool
    slurm_job_id: int | None
    node: str
    timeline: dict[str, float]

    @property
    def ok(self) -> bool:
        return self.right and self.slurm_job_id is not None


def expected_answer(model: Path) -> str:
    """Return the answer the demo model was trained to give to our question."""
    pairs: dict[str, str] = dict(_pairs(json.loads((model / "qa.json").read_text())))
    if QUESTION not in pairs:
        raise StepFailed(f"{model / 'qa.json'} does not hold the question {QUESTION!r}")
    return pairs[QUESTION]


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(pair["question"], pair["answer"]) if isinstance(pair, dict) else tuple(pair) for pair in value]


def question(berth: Berth, expected: str, progress: Progress) -> Outcome:
    """Ask the question, print what is heard while waiting, and collect what the portal knows about the
    request."""
    site = berth.site
    with progress.step(f"Ask {berth.model}: {QUESTION}") as note:
        try:
            answer = ask.ask(
                site.url, berth.token, berth.model, QUESTION, lambda text: note(while_waiting(text))
            )
            detail = finished_detail(berth, answer.request_id)
        except StepFailed as failure:
            failure.log = failure.log or newest_log(site)
            failure.remedy = failure.remedy or f"read the logs in {site.log_dir} and {site.run_dir / 'spool'}"
            raise
    return outcome(answer.text, expected, detail)


def while_waiting(heartbeat: str) -> str:
    """Say a heartbeat as a sentence; return others as they are.

    A heartbeat is `berth {"position": 1, "eta_s": 20.5, "reason": "…"}`, and the last one says what the wait
    was: `berth {"queue_ms": 900, "slurm_ms": 400, "load_ms": 31000}`.
    """
    try:
        said = json.loads(heartbeat.removeprefix("berth "))
        if "load_ms" in said:
            line, slurm, load = (said[f"{part}_ms"] / 1000 for part in ("queue", "slurm", "load"))
            return f"started after {line:.1f} s in the queue, {slurm:.1f} s for Slurm, {load:.1f} s for the model to load"
        eta = "" if said["eta_s"] is None else f", about {said['eta_s']:.0f} s more"
        return f"queue position {said['position']}{eta}: {said['reason']}"
    except (ValueError, KeyError, TypeError):
        return heartbeat


def finished_detail(berth: Berth, request_id: str) -> dict[str, Any]:
    """Return the request's detail once its end is recorded, which may take a moment longer than the
    stream."""
    got: dict[str, Any] = {}

    def ended() -> bool:
        got.update(ask.get_json(berth.site.url, berth.token, f"/api/v1/requests/{request_id}"))
        return got["timeline"]["done"] is not None

    wait_until(ended, 5)
    return got


def newest_log(site: Site) -> Path:
    """Return the log most likely to explain a failed question: the latest job's, else the worker's."""
    logs = [path for path in (site.run_dir / "spool" / "log").glob("*") if tail(path)]
    return max(logs, key=lambda path: path.stat().st_mtime, default=site.log_dir / "worker.log")


def outcome(text: str, expected: str, detail: dict[str, Any]) -> Outcome:
    """Make the outcome of the request's detail: `timeline` holds ISO times or nulls by step, and the pilot
    that served it."""
    line = detail["timeline"]
    at = {name: datetime.fromisoformat(line[name]) for name in TIMELINE if line.get(name)}
    pilot = line["pilot"] or {}
    return Outcome(
        answer=text,
        right=text.strip() == expected.strip(),
        slurm_job_id=pilot.get("job_id"),
        node=pilot.get("node", ""),
        timeline={name: round((at[name] - at["accepted"]).total_seconds(), 2) for name in at},
    )


def place(berth: Berth, node: str) -> str:
    """Return the node's name, with its address where it is a host of its own."""
    slurm = berth.stack.slurm
    if slurm is None or slurm.why_one_host or node not in slurm.spec.node_names:
        return node
    return f"{node}, a host at {slurm.hosts[node].address}"


def show(berth: Berth, got: Outcome, progress: Progress) -> None:
    say = progress.say
    say("")
    say(f"  Question   {QUESTION}")
    say(f"  Answer     {got.answer}")
    say(f"  Slurm job  {got.slurm_job_id} on {place(berth, got.node)}")
    say("  Timeline   seconds since the request was accepted")
    for name, at_s in got.timeline.items():
        say(f"             {at_s:8.2f}  {TIMELINE[name]}")
    say("")
    say(f"  Dashboard  {berth.site.url}/")
    for role, (username, password) in berth.logins.items():
        say(f"  Log in as  {username} / {password}  ({role})")
    say(f"  API token  {berth.token}")
    say("")


def last_line(got: Outcome, progress: Progress, began: float) -> str:
    timeline = {f"answer: {TIMELINE[name]}": at_s for name, at_s in got.timeline.items()}
    seconds = {**progress.seconds, **timeline, "total": round(time.monotonic() - began, 2)}
    said = {"answer": got.answer, "slurm_job_id": got.slurm_job_id, "node": got.node, "seconds": seconds}
    return json.dumps({**said, "ok": got.ok})


def serve(progress: Progress, once: bool) -> Outcome:
    """Go from installed to answered; on the way out stop everything started here."""
    model = install(progress)
    expected = expected_answer(model)
    with running(run_dir(), model, progress, keep=True) as berth:
        got = question(berth, expected, progress)
        show(berth, got, progress)
        if not once:
            stay(progress)
        progress.say("▸ Stop: processes, Slurm jobs, services …")
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
        print(f"✗ the answer is not the expected one to {QUESTION!r}", file=sys.stderr, flush=True)
    if options.once:
        print(last_line(got, progress, began), flush=True)
    return 0 if got.ok else 1
