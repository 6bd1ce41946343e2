"""What a page costs on a large site: 1,000,000 finished requests, 10,000 users, 1,000 models; and who cannot use it.

worst_page_ms  the slowest page: median of five answers, from the first middleware to the last byte, without the network
axe_serious    findings of axe-core that are serious or critical, over all pages, light and dark (0)

Every page and fragment that `tests.authorisation` declares is asked for, as a user with 100,000 requests, as an operator,
and all lists of the admin as an administrator. A page that needs more queries there than on a small site fails the bench.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from devstack import apt, checkout, envs
from devstack.bench import Bench
from devstack.say import StepFailed
from devstack.site import Site

TITLE = "every page over 1,000,000 requests, 10,000 users, 1,000 models"
TIME_LIMIT_S = 1800
GOAL_MS = 150.0
SHOWN = 15


def run(ctx: Bench) -> dict[str, float]:
    apt.install(apt.BROWSER, ctx.progress, checkout.cache_dir() / "apt.log")
    few = measure(ctx, "small")[0]
    many, serious = measure(ctx, "large", look=True)
    queries = {(page["caller"], page["page"]): page["queries"] for page in few}
    grew = [
        (page["page"], queries.get((page["caller"], page["page"])), page["queries"])
        for page in many
        if page["queries"] > queries.get((page["caller"], page["page"]), page["queries"])
    ]
    many.sort(key=lambda page: -page["ms"])
    head = ["page", "as", "ms", "of it Python", "queries", "KB"]
    names = ("page", "caller", "ms", "python_ms", "queries", "kb")
    ctx.table(head, [[page[name] for name in names] for page in many[:SHOWN]])
    for page in many:
        if page["ms"] > GOAL_MS:
            ctx.say(f"  {page['page']}: slowest query {page['slowest']}")
    ctx.say(f"  {len(many)} pages; {sum(page['ms'] > GOAL_MS for page in many)} above {GOAL_MS:.0f} ms")
    for finding in serious:
        ctx.say(f"  axe: {finding}")
    if grew:
        raise StepFailed("more queries on a large site: " + "; ".join(f"{p}: {a} → {b}" for p, a, b in grew))
    return {"worst_page_ms": many[0]["ms"], "axe_serious": len(serious)}


def measure(ctx: Bench, size: str, look: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    with ctx.stack() as stack, Site(ctx.folder, stack.env(), ctx.progress) as site:
        with ctx.progress.step(f"Fill a {size} site"):
            site.manage(["migrate", "--no-input", "-v", "0"], ["setup"], timeout_s=300)
            process(site, "_pages_world", "fill", size)
        with ctx.progress.step("Ask for every page"):
            pages: list[dict[str, Any]] = process(site, "_pages_world", "ask")
        if not look:
            return pages, []
        with ctx.progress.step("Let axe-core look at every page, light and dark"):
            site.start(["web"])
            asked = {"url": site.url, "door": process(site, "_pages_world", "door"),
                     "pages": process(site, "_pages_world", "paths")}  # fmt: skip
            return pages, process(site, "_pages_axe", json.dumps(asked))


def process(site: Site, module: str, *words: str) -> Any:
    argv = [str(envs.PORTAL.python), "-m", f"tests.bench.{module}", *words]
    path = f"{checkout.ROOT}:{Path(checkout.ROOT) / 'bin'}"
    env = {**site.env(), "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    done = subprocess.run(argv, cwd=checkout.ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"{module} {words[0][:20]}: {done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])
