"""A firewall, a range of ports, a second network between the portal and its nodes: a clear reason instead of silence,
and work goes on once the way is open. The nodes are hosts of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from devstack import apt, checkout, hosts
from devstack.say import SILENT

from tests.slurm.scenario import Scenario
from tests.slurm.whole import POOL, Whole

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}"),
]
SAID = "The portal does not reach its ingress"
WITHIN_S = 75  # to the words: five tries take 45 s where nothing answers, before them a job has to start


@pytest.fixture
def nodes(whole: Whole) -> Iterator[tuple[str, ...]]:
    apt.install(apt.FIREWALL, SILENT, checkout.cache_dir() / "apt.log")
    names = whole.slurm.spec.node_names
    yield names
    for name in names:
        whole.slurm.hosts.mend(name)
    whole.relaunch()


def _ended(whole: Whole, since: Any) -> list[tuple[int, str]]:
    return whole.rows(
        "SELECT job_id, end_reason FROM fleet_pilot WHERE state = 'ended' AND planned_at > %s ORDER BY planned_at",
        since,
    )


def _addresses(whole: Whole) -> set[str | None]:
    rows = whole.rows("SELECT address FROM fleet_pilot WHERE state = 'up'")
    return {urlsplit(str(address)).hostname for (address,) in rows}


def test_a_firewall_gives_a_reason_within_a_minute_and_once_it_opens_the_model_starts(
    whole: Whole, nodes: tuple[str, ...]
) -> None:
    scenario = Scenario(whole)
    began = whole.one("SELECT now()")
    for name in nodes:
        whole.slurm.hosts.close_to_portal(name)
    asked = scenario.post(2)
    whole.until(lambda: _ended(whole, began), WITHIN_S, "a job that ends because of the firewall")
    job, reason = _ended(whole, began)[0]
    node = str(whole.pilot(job)["node"])
    assert reason.startswith(
        f"Job {job} could not serve: The portal does not reach its ingress on {node} (http://"
    )
    assert f"http://{whole.slurm.hosts[node].address}:" in reason
    assert "no answer within 4 s" in reason and "set door_address" in reason and "link: reverse" in reason
    # Where people look: who waits, who operates.
    whole.until(lambda: SAID in json.dumps(whole.detail(asked[0])), 30, "the reason at the request")
    assert any(kind == "ended" and SAID in reason for kind, reason in scenario.story())
    assert SAID in whole.site.manage(["fleet", "why", POOL])
    log = whole.one(
        "SELECT text FROM fleet_pilotlog l JOIN fleet_pilot p ON p.id = l.pilot_id WHERE job_id = %s", job
    )
    assert SAID in log
    assert whole.failures() >= 1, "a failed launch, as any other"
    for name in nodes:
        whole.slurm.hosts.mend(name)
    scenario.answered(WITHIN_S + 30)


def test_a_firewall_that_lets_the_profiles_ports_through_is_no_hindrance(
    whole: Whole, nodes: tuple[str, ...]
) -> None:
    scenario = Scenario(whole)
    for name in nodes:
        whole.slurm.hosts.close_to_portal(name, allow=(21_000, 21_010))
    with whole.profile(door_ports="21000-21010"):
        scenario.post(1)
        scenario.answered(90)
    [(address,)] = whole.rows("SELECT address FROM fleet_pilot WHERE state = 'up'")
    assert 21_000 <= (urlsplit(address).port or 0) <= 21_010
    assert whole.failures() == 0


@pytest.mark.nightly
def test_of_two_networks_the_profile_names_the_one_that_the_portal_reaches(
    whole: Whole, nodes: tuple[str, ...]
) -> None:
    for name in nodes:
        if "ib0" not in whole.slurm.hosts.run(name, "ip", "-br", "link"):
            whole.slurm.hosts.add_lone_interface(name)
    scenario = Scenario(whole)
    began = whole.one("SELECT now()")
    with whole.profile(door_address="ib0"):
        scenario.post(1)
        whole.until(lambda: _ended(whole, began), WITHIN_S, "a job that ends")
        assert "http://198.19." in _ended(whole, began)[0][1]
    network = whole.slurm.hosts[nodes[0]].address.rpartition(".")[0] + ".0/24"
    with whole.profile(door_address=network):
        scenario.answered(90)
    assert _addresses(whole) <= {whole.slurm.hosts[name].address for name in nodes}


@pytest.mark.nightly
def test_a_network_that_no_node_has_is_refused_with_what_the_node_has(
    whole: Whole, nodes: tuple[str, ...]
) -> None:
    scenario = Scenario(whole)
    began = whole.one("SELECT now()")
    with whole.profile(door_address="192.168.77.0/24"):
        scenario.post(1)
        whole.until(lambda: _ended(whole, began), WITHIN_S, "a job that ends")
    job, reason = _ended(whole, began)[0]
    own = whole.slurm.hosts[str(whole.pilot(job)["node"])].address
    assert "the network 192.168.77.0/24" in reason and f"eth0: {own}" in reason
    scenario.answered(90)
