"""A gateway and a worker API on a real port, over real PostgreSQL and Redis, with a scripted ingress behind them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import pytest
import redis as redis_library
import uvicorn
from psycopg2.extensions import connection as Connection

from gpuworker import wire
from gpuworker.reverse import Reverse
from portal.accounts.issue import issue_token
from portal.accounts.models import Membership, Project, User
from portal.asgi import Application
from portal.catalog.models import Environment, Model, Pool, Profile
from portal.config import Config, config
from portal.redis import keys
from portal.workerapi.link import Upgrade
from tests.flow.fake_ingress import FakeIngress

T = TypeVar("T")
both_links = pytest.mark.parametrize("link", ["direct", "reverse"], indirect=True)
both_links_nightly = pytest.mark.parametrize(
    "link", ["direct", pytest.param("reverse", marks=pytest.mark.nightly)], indirect=True
)
WITHIN_S = 60.0  # nothing that is tested takes seconds, but a busy machine may


async def until(look: Callable[[], T | None], what: str, within_s: float = WITHIN_S) -> T:
    """Wait for the first truthy answer of `look`, and return it."""
    end = time.monotonic() + within_s
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        await asyncio.sleep(0.01)
    return found


@dataclasses.dataclass(frozen=True)
class Seeded:
    """One project, one user with a token, one model in a pool of its own."""

    token: str
    token_pk: int
    project: int
    user: int
    pool: str = "demo"
    model: str = "demo"


def seed() -> Seeded:
    """Make the rows with Django, before the event loop runs."""
    user = User.objects.create_user("ada")  # no password: hashing one costs a second
    project = Project.objects.create(slug="science", name="Science")
    Membership.objects.create(user=user, project=project)
    row, minted = issue_token(user, project, "test", ["inference", "read"])
    environment = Environment.objects.create(name="echo", engine="echo")
    profile = Profile.objects.create(name="gpu", partition="gpu")
    pool = Pool.objects.create(name="demo", environment=environment, cap=4, args={"load_s": 0.1})
    pool.profiles.add(profile)
    Model.objects.create(name="demo", pool=pool, context_tokens=2048)
    own = Pool.objects.create(name="hidden", environment=environment)
    Model.objects.create(name="hidden", pool=own, is_public=False)
    return Seeded(minted.text, row.pk, project.pk, user.pk)


class Plane:
    """The running data plane, and short ways to set the scene and to look."""

    def __init__(
        self,
        app: Application,
        url: str,
        seeded: Seeded,
        ingress: FakeIngress,
        pg: Connection,
        redis: redis_library.Redis,
        settings: Config,
        client: aiohttp.ClientSession,
        link: str = "direct",
    ) -> None:
        self.app = app
        self.url = url
        self.seeded = seeded
        self.ingress = ingress
        self.pg = pg
        self.redis = redis
        self.settings = settings
        self.client = client
        self.link = link
        self.linked = ""  # the transport over links that the fake ingress has opened

    @property
    def gateway(self) -> Any:
        assert self.app.gateway is not None
        return self.app.gateway

    # People

    def headers(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.seeded.token}"}

    def post(
        self, body: Any = None, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
    ) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(chat() if body is None else body).encode()
        # aiohttp warns of large ones given as they are.
        given = io.BytesIO(data) if len(data) > 2**20 else data
        return self.client.post(self.url + path, data=given, headers=self.headers() | (headers or {}))

    # Pilots and replicas

    def new_pilot(self, state: str = "up", job_id: int | None = None) -> str:
        """Make a pilot whose job runs."""
        pilot = str(uuid.uuid4())
        now = datetime.now(UTC)
        job = job_id if job_id is not None else int(uuid.UUID(pilot)) % 1_000_000_007
        self.sql(
            """INSERT INTO fleet_pilot (id, cluster, profile_id, state, job_name, job_id, gpus, mem_mb, walltime_min,
                 planned_at, submitted_at, up_at, draining_at, end_reason, slurm_state, slurm_reason, node, address,
                 gpu_ids, agent_version, said_ending)
               SELECT %s, 'main', id, %s, %s, %s, 4, 16000, 60, %s, %s, %s, %s, '', 'RUNNING', '', '', '', '[]', '', ''
               FROM catalog_profile LIMIT 1""",
            (pilot, state, f"berth-test-{pilot}", job, now, now, now, now),
        )
        return pilot

    def new_replica(self, pilot: str, state: str = "wanted", cap: int = 4) -> str:
        replica = str(uuid.uuid4())
        now = datetime.now(UTC)
        self.sql(
            """INSERT INTO fleet_replica (id, pilot_id, pool_id, model, engine, state, gpu_indices, mem_mb, cap,
                 wanted_at, hot_at, draining_at, end_reason, phase, engine_version)
               VALUES (%s, %s, 'demo', 'demo', 'echo', %s, '[0]', 1000, %s, %s, %s, %s, '', '', '')""",
            (
                replica,
                pilot,
                state,
                cap,
                now,
                now if state == "hot" else None,
                now if state == "draining" else None,
            ),
        )
        return replica

    def route(self, cap: int = 4, pilot: str | None = None, url: str | None = None) -> str:
        """Route a hot replica at the fake ingress, as a sync would."""
        pilot = pilot or self.new_pilot()
        replica = self.new_replica(pilot, "hot", cap)
        self.set_route(replica, pilot, cap, url)
        return replica

    def set_route(self, replica: str, pilot: str, cap: int = 4, url: str | None = None) -> None:
        said = {
            "transport": url or self.linked or self.ingress.url,
            "pilot": pilot,
            "cap": cap,
            "state": "hot",
            "model": "demo",
        }
        self.redis.hset(keys.ROUTES.of("demo"), replica, json.dumps(said))

    async def open(self, cap: int = 4) -> str:
        """Open a route that comes while requests wait: with the fill that a sync does."""
        replica = self.route(cap)
        await self.gateway.slots.fill("demo")
        return replica

    # Looking

    def sql(self, text: str, args: tuple[Any, ...] = ()) -> list[Any]:
        with self.pg.cursor() as cur:
            cur.execute(text, args)
            found = cur.fetchall() if cur.description else []
        self.pg.commit()
        return found

    def row(self, request: str) -> dict[str, Any] | None:
        found = self.sql("SELECT row_to_json(r) FROM ledger_request r WHERE id = %s", (request,))
        return found[0][0] if found else None

    async def ended(self, request: str) -> dict[str, Any]:
        """Return the request's row once it has ended."""

        def look() -> dict[str, Any] | None:
            row = self.row(request)
            return row if row and row["ended_at"] else None

        return await until(look, f"end of {request}; it is {self.row(request)}")

    async def waiting(self, n: int = 1, within_s: float = WITHIN_S) -> list[str]:
        """Request ids in line, once there are n."""
        await until(lambda: self.redis.zcard(keys.WAIT.of("demo")) == n, f"{n} in line", within_s)
        line: Any = self.redis.zrange(keys.WAIT.of("demo"), 0, -1)
        return [member.decode() for member in line]

    def slots(self, replica: str) -> int:
        return int(self.redis.zcard(keys.SLOTS.of("demo", replica)))

    def events(self, request: str) -> list[tuple[str, str]]:
        return [
            (kind, detail)
            for kind, detail in self.sql(
                "SELECT kind, detail FROM ledger_requestevent WHERE request_id = %s ORDER BY id", (request,)
            )
        ]


def undeclared(redis: redis_library.Redis) -> list[str]:
    """Return the keys of ours that stand in Redis and that no row of `keys.ALL` declares, or not with their type."""
    names = {"zset": "sorted set"}
    kinds = [(re.escape(key.pattern).replace("%s", ".+"), key.type) for key in keys.ALL]
    kinds.append((keys.CACHE.of() + ":.+", keys.CACHE.type))
    found: Any = redis.keys(keys.CACHE.of().partition(":")[0] + ":*")
    return [
        name
        for name in (key.decode() for key in found)
        for held in [redis.type(name).decode()]  # type: ignore[union-attr]
        if held != "none"  # it ran out meanwhile
        and not any(re.fullmatch(p, name) and names.get(held, held) in kind for p, kind in kinds)
    ]


def chat(stream: object = False, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "stream": stream, "messages": [{"role": "user", "content": "hi"}], **more}


@asynccontextmanager
async def serving(app: Any, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve the application on a free port, as uvicorn does."""
    link = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    link.bind((host, 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app, ws=Upgrade, log_level="error", lifespan="on", access_log=False, timeout_graceful_shutdown=1
        )
    )
    task = asyncio.create_task(server.serve(sockets=[link]))
    try:
        await until(lambda: server.started or task.done(), "the server's start")
        if task.done():
            task.result()
        yield f"http://{f'[{host}]' if ':' in host else host}:{link.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        link.close()


@asynccontextmanager
async def running(
    seeded: Seeded,
    dsn: str,
    pg: Connection,
    redis: redis_library.Redis,
    **changes: Any,
) -> AsyncIterator[Plane]:
    host = changes.pop("host", "127.0.0.1")  # where it listens
    link = changes.pop("link", "direct")
    set_here: dict[str, Any] = {"database_url": dsn, "serve": "gateway", "heartbeat_s": 0.3}
    settings = dataclasses.replace(config(), **(set_here | changes))
    ingress = FakeIngress()
    runner = await ingress.start()
    app = Application(settings)
    async with serving(app, host) as url, aiohttp.ClientSession() as client:
        plane = Plane(app, url, seeded, ingress, pg, redis, settings, client, link)
        try:
            async with contextlib.AsyncExitStack() as links:
                if link == "reverse":
                    await links.enter_async_context(linking(plane))
                yield plane
        finally:
            ingress.gate.set()
    await runner.cleanup()


@asynccontextmanager
async def linking(plane: Plane, most: int = 64) -> AsyncIterator[Reverse]:
    """Put the fake ingress behind links that the agent's own code opens, as a pilot that has registered."""
    pilot = plane.new_pilot(job_id=7)
    plane.sql("UPDATE fleet_pilot SET agent_job_id = job_id WHERE id = %s", (pilot,))
    token = wire.derive_key(plane.settings.site_key, "portal", pilot)
    secret = wire.Secret(pilot, plane.url, token, "")
    reverse = Reverse(secret, 7, plane.ingress.handle, lambda: most, lambda: None)
    task = asyncio.create_task(reverse.run())
    plane.linked = f"{wire.REVERSE}{pilot}"
    try:
        await until(lambda: plane.gateway.reverse.holds(pilot), "a link")
        yield reverse
    finally:
        plane.linked = ""
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await reverse.stop()


async def answered(plane: Plane, body: Any = None) -> tuple[int, str, str]:
    async with plane.post(body) as answer:
        return answer.status, await answer.text(), answer.headers["x-request-id"]
