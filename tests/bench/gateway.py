"""What the gateway costs: requests a second and latency, beside other proxies in front of the same null back end.

Ours does all it does in production: token, limits, admission in Redis, routing, a row in PostgreSQL for each
request. The others only pass on (LiteLLM also compares a master key). One process each; wrk with one thread.

req_s              ours, 32 connections, whole answers
ratio_litellm      req_s over LiteLLM's proxy; ratio_ray: over a Ray Serve deployment; ratio_bare: over aiohttp + uvloop
added_p50_ms       one connection: ours less the back end itself
streams_ratio_bare streams of 64 chunks a second, 32 connections, over the bare proxy's
rss_growth_mb      resident memory of our process after 200,000 more requests
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from devstack import apt, berth, checkout, demomodel, envs
from devstack.bench import Bench
from devstack.ports import accepts, free_port
from devstack.procs import Child, Command, wait_until
from devstack.rundir import RunDir, substitute
from devstack.say import StepFailed
from devstack.site import Site
from devstack.stack import Stack

from portal.redis import keys
from tests.bench import _wrk
from tests.bench._wrk import Load, Rate

TIME_LIMIT_S = 900
TITLE = "our gateway, LiteLLM, Ray Serve and a bare proxy in front of a null back end"
ROUNDS = 3
RUN_S = 3.0
GROWTH_REQUESTS = 200_000
GROWTH_LIMIT_S = 180.0
PEER_STARTS = 2
PEER_LIMIT_S = 60.0
QUESTION = {"messages": [{"role": "user", "content": "What is Slurm?"}], "max_tokens": 64}
# At three levels and of three kinds: wide enough to refuse nothing, but asked and settled for each request.
LIMITS = (
    "project.requests=1000000000,project.tokens=1000000000000,token.concurrent=10000,user.requests=1000000000"
)
HERE = checkout.ROOT / "tests" / "bench"


@dataclass
class Proxy:
    """A proxy in front of the back end, and what was measured at it."""

    name: str
    url: str
    model: str
    token: str = "none"
    one: list[Rate] = field(default_factory=list)
    many: list[Rate] = field(default_factory=list)
    streams: list[Rate] = field(default_factory=list)

    def load(self, **more: Any) -> Load:
        return Load(f"{self.url}/v1/chat/completions", self.token, {"model": self.model, **QUESTION, **more})

    def measure(self, folder: Path) -> None:
        self.one.append(_wrk.drive(folder, self.load(), 1, RUN_S))
        self.many.append(_wrk.drive(folder, self.load(), 32, RUN_S))
        self.streams.append(_wrk.drive(folder, self.load(stream=True), 32, RUN_S))

    @property
    def p50_ms(self) -> float:
        return statistics.median(rate.p50_ms for rate in self.one)

    @property
    def req_s(self) -> float:
        return statistics.median(rate.per_s for rate in self.many)

    @property
    def streams_s(self) -> float:
        return statistics.median(rate.per_s for rate in self.streams)


def run(ctx: Bench) -> dict[str, float]:
    apt.install(apt.BENCH, ctx.progress, checkout.cache_dir() / "apt.log")
    for wanted in (envs.PEER_LITELLM, envs.PEER_RAY):
        envs.ensure(wanted, ctx.progress)
    with ctx.stack() as stack, processes(ctx) as home:
        back = Proxy("back end itself", start_backend(home), "null")
        bare = Proxy("bare aiohttp proxy", start_bare(home, back.url), "null")
        with gateway(ctx, stack, back.url) as (site, ours):
            with ctx.progress.step(f"Measure ours, the bare proxy and the back end, {ROUNDS} rounds"):
                for each in (back, bare, ours):  # connections, caches
                    _wrk.drive(ctx.folder, each.load(), 32, 1)
                for _ in range(ROUNDS):
                    for each in (back, bare, ours):
                        each.measure(ctx.folder)
            growth_mb = growth(ctx, site, ours)
        peers = {
            "ratio_litellm": peer(ctx, home, "LiteLLM", start_litellm, back.url),
            "ratio_ray": peer(ctx, home, "Ray Serve", start_ray, back.url),
        }
    measured = {name: proxy for name, proxy in peers.items() if proxy is not None}
    ctx.table(
        ["", "c=1 p50 ms", "c=32 req/s", "c=32 streams/s"],
        [(p.name, p.p50_ms, p.req_s, p.streams_s) for p in (back, bare, ours, *measured.values())],
    )
    return {
        "req_s": round(ours.req_s),
        **{name: round(ours.req_s / proxy.req_s, 1) for name, proxy in measured.items()},
        "ratio_bare": round(ours.req_s / bare.req_s, 3),
        "added_p50_ms": round(ours.p50_ms - back.p50_ms, 3),
        "streams_ratio_bare": round(ours.streams_s / bare.streams_s, 3),
        "rss_growth_mb": round(growth_mb, 1),
    }


def growth(ctx: Bench, site: Site, ours: Proxy) -> float:
    """Return the resident MB that 200,000 requests add. They are fewer where the machine is too slow; it
    is said."""
    before, sent, spent_s = rss_mb(site.pid("web")), 0, 0.0
    with ctx.progress.step("Measure the memory of 200,000 requests"):
        while sent < GROWTH_REQUESTS and spent_s < GROWTH_LIMIT_S:
            sent += _wrk.drive(ctx.folder, ours.load(), 32, 10).requests
            spent_s += 10
    after = rss_mb(site.pid("web"))
    ctx.say(f"  {before:.0f} MB, after {sent:,} more requests {after:.0f} MB")
    return after - before


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


# What is started


@contextlib.contextmanager
def processes(ctx: Bench) -> Iterator[RunDir]:
    """Give a home for what is started beside the services; all of it is ended with it."""
    home = RunDir(ctx.folder / "proxies")
    home.open()
    short = [substitute(home.path, os.getuid())]
    home.watch(short)
    try:
        yield home
    finally:
        home.close(short)


def started(
    home: RunDir,
    name: str,
    argv: list[str],
    port: int,
    env: dict[str, str] | None = None,
    within_s: float = 30,
) -> Child:
    base = {"PATH": apt.SERVER_PATH, "HOME": str(home.path), "LANG": "C.UTF-8"}
    child = Child(Command(name, argv, {**base, **(env or {})}, cwd=HERE), home)
    child.wait_ready(lambda: accepts(port), within_s)
    return child


def start_backend(home: RunDir) -> str:
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "_null_backend:app", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "off"]
    started(home, "backend", argv, port)
    return f"http://127.0.0.1:{port}"


def start_bare(home: RunDir, backend: str) -> str:
    port = free_port()
    started(home, "bare", [sys.executable, str(HERE / "_bare_proxy.py"), str(port), backend], port)
    return f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def gateway(ctx: Bench, stack: Stack, backend: str) -> Iterator[tuple[Site, Proxy]]:
    """Start our web process alone, with a route to the back end as a pilot's sync would have written it."""
    settings = {"BERTH_SERVE": "gateway", "BERTH_LIMITS": LIMITS}
    with Site(ctx.folder, stack.env(), ctx.progress, settings) as site:
        with ctx.progress.step("Migrate the database; a token, the model"):
            seeded = berth.set_up(stack, site, demomodel.folder())
        with ctx.progress.step("Start the gateway"):
            route(stack, seeded.model, backend)
            site.start(["web"])
        yield site, Proxy("Berth's gateway", site.url, seeded.model, seeded.token)


def route(stack: Stack, pool: str, transport: str, cap: int = 256) -> None:
    assert stack.redis is not None
    said = {"transport": transport, "pilot": str(uuid.uuid4()), "cap": cap, "state": "hot", "model": pool}
    with redis.Redis.from_url(stack.redis.url) as client:
        client.hset(keys.ROUTES.of(pool), str(uuid.uuid4()), json.dumps(said))


def start_litellm(home: RunDir, backend: str) -> tuple[Child, Proxy]:
    port, key = free_port(), f"sk-{secrets.token_hex(8)}"
    config = home.path / "litellm.yaml"
    config.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": "null",
                        "litellm_params": {
                            "model": "openai/null",
                            "api_base": f"{backend}/v1",
                            "api_key": "none",
                        },
                    }
                ],
                "general_settings": {"master_key": key},
            }
        )
    )
    argv = [str(envs.PEER_LITELLM.folder() / "bin" / "litellm"), "--config", str(config)]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    child = started(home, "litellm", argv, port, env, within_s=120)
    return child, Proxy("LiteLLM proxy", f"http://127.0.0.1:{port}", "null", key)


def start_ray(home: RunDir, backend: str) -> tuple[Child, Proxy]:
    port = free_port()
    # Ray puts sockets some sixty characters below its folder, and the name of a socket has at most 107.
    folder = substitute(home.path, os.getuid())
    argv = [str(envs.PEER_RAY.python), str(HERE / "_ray_proxy.py"), str(port), backend, str(folder)]
    env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    child = started(home, "ray", argv, port, env, within_s=120)
    return child, Proxy("Ray Serve", f"http://127.0.0.1:{port}", "null")


def peer(
    ctx: Bench, home: RunDir, name: str, start: Callable[[RunDir, str], tuple[Child, Proxy]], backend: str
) -> Proxy | None:
    """Start, measure and end a peer, so that what it does while idle slows nobody else.

    One that fails is started afresh once; after that its figure is missing, and nobody else's.
    """
    for _ in range(PEER_STARTS):
        try:
            with ctx.progress.step(f"Measure {name}"):
                return measured_peer(ctx, home, start, backend)
        except StepFailed as failed:
            ctx.say(f"  {name}: {failed.text()}")
    return None


def measured_peer(
    ctx: Bench, home: RunDir, start: Callable[[RunDir, str], tuple[Child, Proxy]], backend: str
) -> Proxy:
    child, proxy = start(home, backend)
    try:
        if not wait_until(lambda: answers(ctx, proxy), PEER_LIMIT_S):
            raise StepFailed(f"it did not answer within {PEER_LIMIT_S:.0f} s", f"read {child.log}", child.log)
        _wrk.drive(ctx.folder, proxy.load(), 4, 3, may_fail=True)  # routes, imports
        for _ in range(ROUNDS):
            proxy.measure(ctx.folder)
        return proxy
    finally:
        child.stop()


def answers(ctx: Bench, proxy: Proxy) -> bool:
    """Tell whether a proxy serves, which a port that accepts need not do yet."""
    try:
        _wrk.drive(ctx.folder, proxy.load(), 1, 1)
    except StepFailed:
        return False
    return True
