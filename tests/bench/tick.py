"""What one pass of the control loop costs: 500 pilots, 500 models, 200,000 queued rows; and how that grows.

tick_s  median of a tick in which Slurm is listed, every pilot has reported and nothing has to be started
rss_mb  the most memory of the process that ticks
decide_ms  CPU time of the policies alone, for 100 models and 64 GPUs (tests/bench/_decide_fleet.py)
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from devstack import checkout, envs
from devstack.bench import Bench
from devstack.say import StepFailed
from devstack.site import Site

from tests.bench import _plot

TITLE = "one pass of the control loop over a large fleet"
FULL = 500
SIZES = (50, 100, 200, 350, FULL, 1000)
ROWS_EACH = 400  # queued, per model: 200,000 at FULL
TICKS = 15
PLOT = checkout.ROOT / "docs" / "img" / "tick.svg"


def run(ctx: Bench) -> dict[str, float]:
    found = {size: measure(ctx, size) for size in SIZES}
    ctx.table(
        ["pilots = models", "queued rows", "median s", "longest s", "first s", "RSS MB", "decisions"],
        [
            (n, n * ROWS_EACH, f["median_s"], f["longest_s"], f["first_s"], f["rss_mb"], f["decisions"])
            for n, f in found.items()
        ],
    )
    PLOT.write_text(
        _plot.line(
            [(float(n), f["median_s"]) for n, f in found.items()],
            title="One tick of the control loop",
            x="pilots, and as many models with 400 queued requests each",
            y="seconds",
            bound=0.5,
        )
    )
    ctx.say(f"  plotted in {PLOT.relative_to(checkout.ROOT)}")
    full = found[FULL]
    return {"tick_s": round(full["median_s"], 3), "rss_mb": round(full["rss_mb"]), "decide_ms": decide_ms()}


def decide_ms() -> float:
    """Return the CPU milliseconds of one decision, measured in a process of its own."""
    argv = [str(envs.PORTAL.python), "-m", "tests.bench._decide_fleet"]
    done = subprocess.run(argv, cwd=checkout.ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(ctx: Bench, size: int) -> dict[str, float]:
    with ctx.stack() as stack, Site(ctx.folder, stack.env(), ctx.progress) as site:
        with ctx.progress.step(f"Fill a fleet of {size}, {size * ROWS_EACH:,} queued rows"):
            site.manage(["migrate", "--no-input", "-v", "0"], timeout_s=300)
            process(site, "seed", size, size, size * ROWS_EACH)
        with ctx.progress.step(f"Tick {TICKS} times"):
            figures = process(site, "run", TICKS)
    if figures["ended"]:
        raise StepFailed(f"{figures['ended']:.0f} pilots ended: this was not the fleet to be measured")
    return figures


def process(site: Site, *words: object) -> dict[str, float]:
    argv = [str(envs.PORTAL.python), "-m", "tests.bench._tick_world", *map(str, words)]
    path = f"{checkout.ROOT}:{Path(checkout.ROOT) / 'bin'}"
    env = {**site.env(), "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    done = subprocess.run(argv, cwd=checkout.ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"_tick_world {words[0]}: {done.stderr[-1500:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
