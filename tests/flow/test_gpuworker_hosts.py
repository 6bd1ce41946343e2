"""A gpuworker on a host of its own: where it listens, what it tells the portal, and what becomes of it behind a
firewall. Nothing here is 127.0.0.1."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as redis_library
from devstack import apt, checkout, hosts
from devstack.hosts import Hosts
from devstack.rundir import RunDir
from devstack.say import SILENT
from psycopg2.extensions import connection as Connection

from gpuworker import exits
from gpuworker.proctree import descendants
from tests.flow import dataplane
from tests.flow.dataplane import Plane, Seeded
from tests.flow.gpuworker_job import SHORT, command_of, job, planned, worker
from tests.flow.gpuworker_portal import FakePortal, fake_portal, until

pytestmark = pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}")
NODE = "gpu01"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Make one node with two interfaces, of which the portal can reach the first."""
    apt.install(apt.FIREWALL, SILENT, checkout.cache_dir() / "apt.log")
    run_dir = RunDir(tmp_path_factory.mktemp("net"))
    run_dir.open()
    run_dir.watch()
    shared = [checkout.ROOT, checkout.cache_dir(), tmp_path_factory.getbasetemp(), SHORT]
    made = Hosts(run_dir, run_dir.path, [NODE], shared)
    made.start()
    made.add_lone_interface(NODE)
    try:
        yield made
    finally:
        made.stop()
        run_dir.close()


@pytest.fixture
async def plane_there(
    net: Hosts, seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis
) -> AsyncIterator[Plane]:
    """Start the real data plane at the address where nodes find the portal."""
    async with dataplane.running(seeded, test_dsn, pg, redis, host=net.portal) as plane:
        yield plane
    net.mend(NODE)


def _reached(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def _from_node(net: Hosts, address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {port}), timeout=2)"
    argv = [*net.enter(NODE), "python3", "-c", code]
    return hosts._run(argv).returncode == 0


async def _url(portal: FakePortal) -> str:
    return (await until(lambda: portal.registers, "a registration"))[0].address


async def test_it_listens_where_it_reaches_the_portal_from_and_nowhere_else(
    net: Hosts, tmp_path: Path
) -> None:
    async with fake_portal(net.portal) as portal:
        with worker(portal, tmp_path, there=net.enter(NODE)):
            url = await _url(portal)
            address, port = net[NODE].address, int(url.rpartition(":")[2])
            assert url == f"http://{address}:{port}"
            assert portal.registers[0].others == []
            assert _reached(address, port)
            assert not _from_node(net, "127.0.0.1", port)


async def test_over_ipv6(net: Hosts, tmp_path: Path) -> None:
    if not net.portal6:
        pytest.skip("this machine has no IPv6")
    async with fake_portal(net.portal6) as portal:
        with worker(portal, tmp_path, there=net.enter(NODE)):
            url = await _url(portal)
            assert url.startswith(f"http://[{net[NODE].address6}]:")
            assert _reached(net[NODE].address6, int(url.rpartition(":")[2]))


async def test_a_request_is_answered_over_ipv6(
    net: Hosts, seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis, tmp_path: Path
) -> None:
    if not net.portal6:
        pytest.skip("this machine has no IPv6")
    async with dataplane.running(seeded, test_dsn, pg, redis, host=net.portal6) as plane:
        pilot, _ = planned(plane)
        with job(plane, pilot, tmp_path, there=net.enter(NODE)):
            await until(lambda: plane.sql("SELECT registered_at FROM fleet_pilot")[0][0], "a registration")
            status, text, _ = await dataplane.answered(plane)
        assert status == 200, text
        assert str(plane.sql("SELECT address FROM fleet_pilot")[0][0]).startswith("http://[fd62:")


@pytest.mark.parametrize("door", ["ib0", "198.19.0.0/16"])
async def test_one_word_in_the_profile_names_another_network(net: Hosts, tmp_path: Path, door: str) -> None:
    async with fake_portal(net.portal) as portal:
        with worker(portal, tmp_path, {"BERTH_DOOR_ADDRESS": door}, there=net.enter(NODE)):
            assert (await _url(portal)).startswith("http://198.19.")


async def test_an_interface_that_the_node_lacks_ends_the_job_in_words(net: Hosts, tmp_path: Path) -> None:
    async with fake_portal(net.portal) as portal:
        with worker(portal, tmp_path, {"BERTH_DOOR_ADDRESS": "ib7"}, there=net.enter(NODE)) as job:
            assert await job.exit_code() == exits.UNFIT
        (said,) = portal.registers
        assert (said.node, said.address, said.job_id) == (NODE, "", 77)
        assert "no interface ib7" in said.refusal and f"eth0: {net[NODE].address}" in said.refusal
        assert said.refusal in job.said()


async def test_all_ports_of_the_range_taken_is_said_with_the_range_and_the_address(
    net: Hosts, tmp_path: Path
) -> None:
    address = net[NODE].address
    async with fake_portal(net.portal) as portal:
        env = {"BERTH_DOOR_PORTS": "20000-20001"}
        there = net.enter(NODE)
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        (tmp_path / "c").mkdir()
        with (
            worker(portal, tmp_path / "a", env, there=there),
            worker(portal, tmp_path / "b", env, there=there),
        ):
            await until(lambda: len(portal.registers) == 2, "two registrations")
            assert {said.address for said in portal.registers} == {
                f"http://{address}:20000",
                f"http://{address}:20001",
            }
            with worker(portal, tmp_path / "c", env, there=there) as third:
                assert await third.exit_code() == exits.UNFIT
            assert f"all ports from 20000 to 20001 (door_ports) on {address} are taken" in (
                portal.registers[-1].refusal
            )


async def test_a_portal_that_cannot_be_reached_at_first_is_waited_for(net: Hosts, tmp_path: Path) -> None:
    async with fake_portal(net.portal) as portal:
        net.cut(NODE)
        with worker(portal, tmp_path, there=net.enter(NODE)) as job:
            await until(lambda: "no connection to the portal yet" in job.said(), "a first try")
            net.mend(NODE)
            assert (await _url(portal)).startswith(f"http://{net[NODE].address}:")


async def test_a_portal_that_is_never_reached_ends_the_job(net: Hosts, tmp_path: Path) -> None:
    async with fake_portal(net.portal) as portal:
        url = portal.url
    portal.url = url  # nobody listens there any more
    with worker(portal, tmp_path, {"BERTH_REGISTER_LIMIT_S": "0.5"}, there=net.enter(NODE)) as job:
        assert await job.exit_code() == exits.SILENT
    assert f"{net.portal} port {url.rpartition(':')[2]}: Connection refused" in job.said()


async def test_a_firewall_before_the_node_ends_the_job_with_words_in_the_pilots_row(
    net: Hosts, plane_there: Plane, tmp_path: Path
) -> None:
    plane = plane_there
    net.close_to_portal(NODE, refuse=True)
    pilot, _ = planned(plane)
    with job(
        plane, pilot, tmp_path, env={"BERTH_DOOR_PORTS": "20000-20003"}, there=net.enter(NODE)
    ) as process:
        await until(lambda: process.poll() is not None, "the end of the job")
        assert process.returncode == exits.UNREACHED
    said = str(plane.sql("SELECT said_ending FROM fleet_pilot")[0][0])
    assert f"(http://{net[NODE].address}:20000: it refused the connection" in said
    assert "Open ports 20000-20003 from the portal to the nodes" in said
    assert said.removeprefix("refused: ") in (tmp_path / "job.log").read_text()


async def test_a_firewall_that_opens_while_the_agent_tries_again_costs_seconds_only(
    net: Hosts, plane_there: Plane, tmp_path: Path
) -> None:
    plane = plane_there
    net.close_to_portal(NODE)
    pilot, replica = planned(plane)
    with job(plane, pilot, tmp_path, there=net.enter(NODE)):
        log = tmp_path / "job.log"
        await until(lambda: "does not reach this ingress" in log.read_text(), "a first try")
        assert plane.sql("SELECT registered_at FROM fleet_pilot") == [(None,)]
        net.mend(NODE)
        await until(
            lambda: plane.sql("SELECT state FROM fleet_replica WHERE id = %s", (replica,)) == [("hot",)],
            "a hot replica",
        )
        status, text, _ = await dataplane.answered(plane)
        assert status == 200, text


async def test_a_firewall_that_lets_the_range_through_is_enough(
    net: Hosts, plane_there: Plane, tmp_path: Path
) -> None:
    plane = plane_there
    net.close_to_portal(NODE, allow=(20000, 20003))
    pilot, _ = planned(plane)
    with job(plane, pilot, tmp_path, env={"BERTH_DOOR_PORTS": "20000-20003"}, there=net.enter(NODE)):
        await until(lambda: plane.sql("SELECT registered_at FROM fleet_pilot")[0][0], "a registration")
        async with asyncio.timeout(60):
            status, text, _ = await dataplane.answered(plane)
        assert status == 200, text


@pytest.mark.nightly
async def test_somebody_elses_network_is_told_from_ours(
    net: Hosts, plane_there: Plane, tmp_path: Path
) -> None:
    """The address that the profile names exists on the node, and the portal has no way to it."""
    plane = plane_there
    pilot, _ = planned(plane)
    env = {"BERTH_DOOR_ADDRESS": "ib0"}
    with job(plane, pilot, tmp_path, env=env, there=net.enter(NODE)) as process:
        await until(lambda: process.poll() is not None, "the end of the job", 90)
        assert process.returncode == exits.UNREACHED
    assert "http://198.19." in str(plane.sql("SELECT said_ending FROM fleet_pilot")[0][0])


@pytest.mark.nightly
async def test_an_agent_that_starts_again_behind_a_firewall_is_given_the_time_that_it_takes_to_open(
    net: Hosts, plane_there: Plane, tmp_path: Path
) -> None:
    plane = plane_there
    pilot, _ = planned(plane)
    log = tmp_path / "job.log"
    with job(plane, pilot, tmp_path, there=net.enter(NODE)) as process:
        await until(lambda: "registered as pilot" in log.read_text(), "a registration")
        net.close_to_portal(NODE, refuse=True)
        (agent,) = [pid for pid in descendants(process.pid) if "gpuworker.agent" in command_of(pid)]
        os.kill(agent, signal.SIGKILL)
        # A job that never served would have ended after the fifth.
        await until(lambda: log.read_text().count("does not reach this ingress") >= 6, "a sixth try", 120)
        assert process.poll() is None
        net.mend(NODE)
        await until(lambda: log.read_text().count("registered as pilot") == 2, "its return")
        assert plane.sql("SELECT said_ending FROM fleet_pilot") == [("",)]
