"""A real vLLM through gateway and ingress, against the same vLLM's own socket: 32 requests in flight, 32 tokens each.

vllm_ratio        whole answers a second, through us over direct
vllm_stream_ratio streams a second, through us over direct
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from devstack import ask, checkout, proctable
from devstack.bench import Bench
from devstack.berth import Berth
from devstack.procs import wait_until
from devstack.say import StepFailed

from tests.bench._ask_many import AT_ONCE
from tests.bench.batch import seat

TITLE = "a real vLLM through gateway and ingress, against its own socket"
ROUNDS = 3
RUN_S = 5.0
CLIENT = checkout.ROOT / "tests" / "bench" / "_ask_many.py"


def run(ctx: Bench) -> dict[str, float]:
    through: dict[bool, list[float]] = {False: [], True: []}
    direct: dict[bool, list[float]] = {False: [], True: []}
    with ctx.berth() as berth:
        # As many as ask at once, so that the engine has as many at once whichever way they come.
        seat(berth.site, AT_ONCE)
        with ctx.progress.step("Bring the model up"):
            ask.ask(berth.site.url, berth.token, berth.model, "What is Slurm?", lambda _text: None)
        socket = engine_socket(berth)
        for url, sock in ((berth.site.url, None), ("http://engine", socket)):
            drive(berth, url, sock, stream=False, seconds=3)
        with ctx.progress.step(f"Measure both ways, {ROUNDS} rounds"):
            for _ in range(ROUNDS):
                for stream in (False, True):
                    direct[stream].append(drive(berth, "http://engine", socket, stream=stream))
                    through[stream].append(drive(berth, berth.site.url, None, stream=stream))
    median = statistics.median
    ctx.table(
        ["", "whole answers/s", "streams/s"],
        [
            ("vLLM's own socket", median(direct[False]), median(direct[True])),
            ("gateway and ingress", median(through[False]), median(through[True])),
        ],
    )
    return {
        "vllm_ratio": round(median(through[False]) / median(direct[False]), 3),
        "vllm_stream_ratio": round(median(through[True]) / median(direct[True]), 3),
    }


def drive(berth: Berth, url: str, socket: Path | None, *, stream: bool, seconds: float = RUN_S) -> float:
    asked: dict[str, Any] = {
        "url": url,
        "socket": str(socket) if socket else None,
        "token": berth.token,
        "model": berth.model,
        "stream": stream,
        "seconds": seconds,
    }
    argv = [sys.executable, str(CLIENT), json.dumps(asked)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise StepFailed(f"the client at {url} failed: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout)["per_s"])


def engine_socket(berth: Berth) -> Path:
    """Find the socket where the engine in our own cluster's job listens: its command line names it."""
    assert berth.stack.slurm is not None
    jobs = proctable.of_jobs(berth.stack.slurm.env()["SLURM_CONF"])
    found: list[Path] = []

    def look() -> bool:
        for pid in jobs | proctable.descendants(jobs):
            try:
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--uds" in argv and b"vllm.entrypoints.openai.api_server" in argv:
                # As that process sees it: a node may have a /tmp of its own.
                found.append(Path(f"/proc/{pid}/root{argv[argv.index(b'--uds') + 1].decode()}"))
        return bool(found)

    if not wait_until(look, 5):
        raise StepFailed("no vLLM with a socket among the processes of our jobs")
    return found[0]
