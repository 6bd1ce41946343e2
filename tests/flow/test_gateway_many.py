"""Two gateways over one Redis and one PostgreSQL: no slot overrun, no lost grant, the order kept; and one of them dies.

Each is a process's worth of gateway (its own connections, leases, writer and server), so that the only things they
share are the two databases.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web

from portal.asgi import Application
from portal.gateway.app import Gateway
from portal.ledger import transitions
from portal.redis import keys
from tests.flow.dataplane import Plane, chat, serving, until
from tests.flow.fake_ingress import FakeIngress, Seen, answer_well

CAP = 4


class CountingIngress:
    """An ingress that counts how many ran at once on each replica, and which request how often."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()

    async def behave(self, ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        replica = seen.headers["x-berth-replica"]
        self.running[replica] += 1
        self.most[replica] = max(self.most[replica], self.running[replica])
        self.runs[seen.body["user"]] += 1
        try:
            await asyncio.sleep(0.01)
            return await answer_well(ingress, request, seen)
        finally:
            self.running[replica] -= 1


class Behaviours(list[Any]):
    """A list of behaviours for requests that all behave the same."""

    def __init__(self, behave: Any) -> None:
        super().__init__([behave])

    def pop(self, index: Any = -1) -> Any:
        return self[0]


@asynccontextmanager
async def _second(plane: Plane) -> AsyncIterator[tuple[Application, str]]:
    app = Application(plane.settings)
    async with serving(app) as url:
        yield app, url


async def _ask(plane: Plane, url: str, name: str, client: aiohttp.ClientSession) -> int:
    async with client.post(
        url + "/v1/chat/completions", json=chat(user=name), headers=plane.headers()
    ) as answer:
        await answer.read()
        return answer.status


def _watched(plane: Plane) -> CountingIngress:
    counted = CountingIngress()
    plane.ingress.next = Behaviours(counted.behave)
    return counted


async def test_two_gateways_never_overrun_a_slot_and_lose_no_grant(plane: Plane) -> None:
    counted = _watched(plane)
    replicas = [plane.route(CAP), plane.route(CAP)]
    async with AsyncExitStack() as stack:
        _, url = await stack.enter_async_context(_second(plane))
        client = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        plane.ingress.gate.clear()
        asking = asyncio.gather(*(_ask(plane, (plane.url, url)[i % 2], f"r{i}", client) for i in range(200)))
        await until(lambda: sum(counted.most.values()) == 2 * CAP, "the room is used")
        plane.ingress.gate.set()
        assert Counter(await asking) == {200: 200}
    assert all(counted.most[replica] <= CAP for replica in replicas), counted.most
    assert set(counted.runs.values()) == {1} and len(counted.runs) == 200
    await until(
        lambda: plane.sql("SELECT state, count(*) FROM ledger_request GROUP BY 1") == [("done", 200)],
        "every one to end once",
    )
    await until(lambda: sum(plane.slots(replica) for replica in replicas) == 0, "no slot in use")


async def test_the_line_is_one_whoever_stands_in_it_where(plane: Plane) -> None:
    """Requests that come to two gateways by turns run in the order in which they came."""
    async with AsyncExitStack() as stack:
        _, url = await stack.enter_async_context(_second(plane))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        asking = []
        for i in range(12):
            asking.append(asyncio.create_task(_ask(plane, (plane.url, url)[i % 2], f"r{i:02d}", client)))
            await plane.waiting(i + 1)
        await plane.open(cap=1)
        assert Counter(await asyncio.gather(*asking)) == {200: 12}
    assert [seen.body["user"] for seen in plane.ingress.seen] == [f"r{i:02d}" for i in range(12)]


async def test_projects_share_the_line_across_gateways(plane: Plane) -> None:
    """One project's backlog at one gateway does not keep another's request at the other gateway waiting."""
    other = await _other_project(plane)
    async with AsyncExitStack() as stack:
        _, url = await stack.enter_async_context(_second(plane))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        asking = [asyncio.create_task(_ask(plane, plane.url, f"flood-{i:02d}", client)) for i in range(30)]
        await plane.waiting(30)
        headers = {"Authorization": f"Bearer {other}"}

        async def single() -> int:
            body = chat(user="single")
            async with client.post(url + "/v1/chat/completions", json=body, headers=headers) as answer:
                return answer.status

        asking.append(asyncio.create_task(single()))
        await plane.waiting(31)
        await plane.open(cap=1)
        assert Counter(await asyncio.gather(*asking)) == {200: 31}
    assert [seen.body["user"] for seen in plane.ingress.seen].index("single") <= 1


async def test_priority_passes_what_its_own_project_has_waiting(plane: Plane) -> None:
    async def ask(name: str, priority: str) -> int:
        async with plane.post(chat(user=name), headers={"x-berth-priority": priority}) as answer:
            return int(answer.status)

    asking = []
    for i, (name, priority) in enumerate([("a", ""), ("b", "0"), ("low", "-1"), ("c", ""), ("high", "1")]):
        asking.append(asyncio.create_task(ask(name, priority)))
        await plane.waiting(i + 1)
    await plane.open(cap=1)
    assert await asyncio.gather(*asking) == [200] * 5
    order = [seen.body["user"] for seen in plane.ingress.seen]
    assert order.index("high") <= 1 and order.index("high") < order.index("b") < order.index("c"), order
    assert await ask("d", "urgent") == 400


async def test_a_members_usual_priority_counts_where_a_request_names_none(plane: Plane) -> None:
    plane.sql("UPDATE accounts_membership SET priority = 1 RETURNING id")

    async def ask(name: str, headers: dict[str, str]) -> int:
        async with plane.post(chat(user=name), headers=headers) as answer:
            return int(answer.status)

    asking = []
    for i, (name, priority) in enumerate([("a", "0"), ("b", "0"), ("usual", "")]):
        headers = {"x-berth-priority": priority} if priority else {}
        asking.append(asyncio.create_task(ask(name, headers)))
        await plane.waiting(i + 1)
    await plane.open(cap=1)
    assert await asyncio.gather(*asking) == [200] * 3
    order = [seen.body["user"] for seen in plane.ingress.seen]
    assert order.index("usual") < order.index("b"), order


async def test_a_gateway_that_dies_half_way_overruns_nothing_and_loses_nothing(plane: Plane) -> None:
    """100 through each; one dies with some running and the rest in line. The other's are answered, the dead one's
    leases run out, and its rows are detached: pilots pull them."""
    counted = _watched(plane)
    replica = plane.route(CAP)
    async with AsyncExitStack() as stack:
        app, url = await stack.enter_async_context(_second(plane))
        client = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        dying = [asyncio.create_task(_ask(plane, url, f"dead-{i}", client)) for i in range(100)]
        living = [asyncio.create_task(_ask(plane, plane.url, f"live-{i}", client)) for i in range(100)]
        await until(lambda: counted.runs.total() >= 60, "the work to be half-way")
        assert app.gateway is not None
        await _die(app.gateway, dying)
        assert Counter(await asyncio.gather(*living)) == {200: 100}
        assert counted.most[replica] <= CAP
        dead = app.gateway.id
        now = datetime.now(UTC)
        with plane.pg.cursor() as cur:
            cur.execute(
                "UPDATE ledger_holder SET seen_at = %s WHERE id = %s", (now - timedelta(minutes=1), dead)
            )
            moved = transitions.detach(cur, now - timedelta(seconds=20), now)
        plane.pg.commit()
    assert moved, "some of its requests were waiting or running"
    states = dict(plane.sql("SELECT lane || ' ' || state, count(*) FROM ledger_request GROUP BY 1"))
    assert states.pop("async queued") == len(moved)
    assert set(states) == {"held done"}
    done = states["held done"]
    # Accepted is kept. What its clients had not been answered and was never accepted died with it.
    assert done >= 100 and done + len(moved) <= 200
    bodies = plane.sql(
        "SELECT count(*) FROM ledger_payload p JOIN ledger_request r ON r.id = p.request WHERE r.state = 'queued'"
    )
    assert bodies[0][0] == len(moved), "with what they ask"
    line = plane.redis.zrange(keys.WAIT.of("demo"), 0, -1)
    assert line == [], "the dead one's places were dropped when their turn came"


async def _die(gateway: Gateway, clients: list[asyncio.Task[int]]) -> None:
    """Kill a gateway as SIGKILL would: nothing is written, released or said any more; only the sockets
    close."""
    gateway.writer._stopping.set()
    gateway.writer._apply = lambda jobs: None  # type: ignore[method-assign]
    pipe = gateway.slots._pipe
    pipe._leaving.clear()
    pipe._leave = lambda ask: None  # type: ignore[method-assign]
    await gateway.keeper.stop()
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


async def _other_project(plane: Plane) -> str:
    from tests.flow.batch_world import in_thread

    return str(await in_thread(_make_other))


def _make_other() -> str:
    from portal.accounts.issue import issue_token
    from portal.accounts.models import Membership, Project, User

    user = User.objects.create_user("bob")
    project = Project.objects.create(slug="art", name="Art")
    Membership.objects.create(user=user, project=project)
    return issue_token(user, project, "test", ["inference"])[1].text
