"""What it costs that the agent opens the connections: requests and streams a second over its links beside dialled ones.

The same gateway process, the same agent's code and the same null back end behind both, by turns; the third is a
gateway that holds no link and borrows them from the first.

reverse_ratio          whole answers a second, 32 connections: over links that the agent opened, over direct ones
reverse_streams_ratio  streams of 64 chunks a second, likewise
relay_ratio            whole answers a second of a gateway that borrows every link from another, over direct
relay_streams_ratio    streams of 64 chunks, likewise
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import redis
from devstack import apt, berth, checkout, demomodel
from devstack.bench import Bench
from devstack.ports import accepts, free_port
from devstack.procs import Child, Command, wait_until
from devstack.rundir import RunDir
from devstack.say import StepFailed
from devstack.site import Site
from devstack.stack import Stack

from gpuworker import wire
from portal.redis import keys
from tests.bench import _wrk
from tests.bench._null_agent import CAP
from tests.bench._wrk import Load, Rate
from tests.bench.gateway import HERE, QUESTION, processes, start_backend, started

TITLE = "links that the agent opens, beside connections that the gateway dials"
ROUNDS = 5
RUN_S = 3.0
REPLICA = str(uuid.uuid4())
# A pilot that has registered, as its agent and the control loop would have left it.
_PILOT = """
INSERT INTO fleet_pilot (id, cluster, profile_id, state, job_name, job_id, agent_job_id, gpus, mem_mb, walltime_min,
  planned_at, submitted_at, up_at, end_reason, slurm_state, slurm_reason, node, address, gpu_ids, agent_version,
  said_ending)
SELECT %s, 'main', id, 'up', 'berth-bench-link', 1, 1, 1, 1000, 60, now(), now(), now(), '', 'RUNNING', '', '', '',
  '[]', '', '' FROM catalog_profile LIMIT 1"""


@dataclass
class Way:
    """A gateway's address and the transport by which it reaches the replica, and what was measured."""

    name: str
    url: str
    transport: str
    many: list[Rate] = field(default_factory=list)
    streams: list[Rate] = field(default_factory=list)

    def measure(self, world: World, seconds: float) -> tuple[Rate, Rate]:
        world.route(self.transport)
        found = []
        for stream in (False, True):
            body = {"model": world.model, "stream": stream, **QUESTION}
            load = Load(f"{self.url}/v1/chat/completions", world.token, body)
            found.append(_wrk.drive(world.folder, load, 32, seconds))
        return found[0], found[1]

    @property
    def req_s(self) -> float:
        return statistics.median(rate.per_s for rate in self.many)

    @property
    def streams_s(self) -> float:
        return statistics.median(rate.per_s for rate in self.streams)


@dataclass(frozen=True)
class World:
    """The world that stands during the bench."""

    folder: Path
    stack: Stack
    pilot: str
    model: str
    token: str
    key: bytes

    def route(self, transport: str) -> None:
        assert self.stack.redis is not None
        said = {"transport": transport, "pilot": self.pilot, "cap": CAP, "state": "hot", "model": self.model}
        with redis.Redis.from_url(self.stack.redis.url) as client:
            client.hset(keys.ROUTES.of(self.model), REPLICA, json.dumps(said))

    def holders(self) -> int:
        assert self.stack.redis is not None
        with redis.Redis.from_url(self.stack.redis.url) as client:
            return int(client.scard(keys.LINKS.of(self.pilot)))


def run(ctx: Bench) -> dict[str, float]:
    apt.install(apt.BENCH, ctx.progress, checkout.cache_dir() / "apt.log")
    with ctx.stack() as stack, processes(ctx) as home, gateways(ctx, stack, home) as (first, second, world):
        backend = start_backend(home)
        with ctx.progress.step("Start the agents"):
            dialled = start_agent(home, "dialled", world, backend, "")
            start_agent(home, "linked", world, backend, first.url)
            if not wait_until(lambda: world.holders() > 0, 30):
                raise StepFailed("the agent opened no link", log=home.path / "log" / "linked.log")
        reverse = wire.REVERSE + world.pilot
        ways = [
            Way("the gateway dials", first.url, dialled),
            Way("the agent opens the links", first.url, reverse),
            Way("…and a gateway borrows them", second, reverse),
        ]
        with ctx.progress.step(f"Measure by turns, {ROUNDS} rounds"):
            for way in ways:
                way.measure(world, 1)  # connections, caches
            for _ in range(ROUNDS):
                for way in ways:
                    whole, streams = way.measure(world, RUN_S)
                    way.many.append(whole)
                    way.streams.append(streams)
    ctx.table(["", "c=32 req/s", "c=32 streams/s"], [(way.name, way.req_s, way.streams_s) for way in ways])
    direct, linked, relayed = ways
    return {
        "reverse_ratio": round(linked.req_s / direct.req_s, 3),
        "reverse_streams_ratio": round(linked.streams_s / direct.streams_s, 3),
        "relay_ratio": round(relayed.req_s / direct.req_s, 3),
        "relay_streams_ratio": round(relayed.streams_s / direct.streams_s, 3),
    }


@contextlib.contextmanager
def gateways(ctx: Bench, stack: Stack, home: RunDir) -> Iterator[tuple[Site, str, World]]:
    """Start two web processes over the same database: the agent knows only the first."""
    settings = {"BERTH_SERVE": "gateway"}
    with Site(ctx.folder, stack.env(), ctx.progress, settings) as site:
        with ctx.progress.step("Migrate the database; a token, the model, a pilot"):
            seeded = berth.set_up(stack, site, demomodel.folder())
            pilot = new_pilot(stack)
        with ctx.progress.step("Start two gateways"):
            site.start(["web"])
            port = free_port()
            web = next(command for command in site.commands() if command.name == "web")
            argv = [str(port) if part == str(site.port) else part for part in web.argv]
            second = Child(Command("web2", argv, web.env, cwd=checkout.ROOT), home)
            second.wait_ready(lambda: accepts(port), 120)
        key = (ctx.folder / "state" / "site.key").read_text().strip().encode()
        world = World(ctx.folder, stack, pilot, seeded.model, seeded.token, key)
        yield site, f"http://127.0.0.1:{port}", world


def new_pilot(stack: Stack) -> str:
    pilot = str(uuid.uuid4())
    with psycopg2.connect(stack.env()["BERTH_DATABASE_URL"]) as db, db.cursor() as cur:
        cur.execute(_PILOT, (pilot,))
    db.close()
    return pilot


def start_agent(home: RunDir, name: str, world: World, backend: str, portal: str) -> str:
    port = free_port()
    asked = {
        "backend": backend,
        "portal": portal,
        "pilot": world.pilot,
        "token": wire.derive_key(world.key, "portal", world.pilot),
        "key": wire.derive_key(world.key, "ingress", world.pilot),
        "replica": REPLICA,
        "port": port,
    }
    argv = [sys.executable, str(HERE / "_null_agent.py"), json.dumps(asked)]
    started(home, name, argv, port, {"PYTHONPATH": os.environ["PYTHONPATH"]})
    return f"http://127.0.0.1:{port}"
