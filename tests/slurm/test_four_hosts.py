"""Four hosts with an address each: a request is answered on every one of them, and nothing goes over loopback.

A Berth of its own, because its nodes have one GPU each: four models that want one must live on four nodes.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from devstack import ask, berth, demomodel, hosts, ports
from devstack.procs import wait_until
from devstack.say import Progress
from devstack.slurmconf import SlurmSpec

from tests.slurm.whole import QUICK, Whole

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}"),
]

NAMES = ("one", "two", "three", "four")
LOOPBACK = re.compile(r"\b127\.\d+\.\d+\.\d+\b|\blocalhost\b|(?<![0-9a-f:])::1\b")
CATALOG: dict[str, Any] = {
    "profiles": {"demo": {"gpus": 1, "cpus": 1, "mem_mb": 2000}},
    "pools": {
        name: {
            "environment": "demo-echo", "profiles": ["demo"], "gpus": 1, "mem_mb": 100, "keep_alive_s": 600,
            "load_limit_s": 60, "load_estimate_s": 1, "args": {"load_s": 0, "tokens_per_s": 200},
        }
        for name in NAMES
    },
    "models": {name: {"pool": name} for name in NAMES},
}  # fmt: skip


class Answered:
    """One answer of each of the models, and the pilot that gave it."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.texts: dict[str, str] = {}
        self.pilots: dict[str, dict[str, Any]] = {}
        threads = [threading.Thread(target=self._ask, args=(name,), daemon=True) for name in NAMES]
        for thread in threads:
            thread.start()
        # Together, not each: whoever has no answer by then has none.
        wait_until(lambda: not any(thread.is_alive() for thread in threads), 120)

    def _ask(self, name: str) -> None:
        site, token = self.whole.site, self.whole.berth.token
        got = ask.ask(site.url, token, name, f"this is {name}", lambda _: None)
        self.texts[name] = got.text
        self.pilots[name] = self.whole.detail(got.request_id)["timeline"]["pilot"]

    def addresses(self) -> dict[str, str]:
        """Return by node the address at which its pilot says that it can be reached."""
        rows = self.whole.rows("SELECT node, address FROM fleet_pilot WHERE state <> 'ended'")
        return {str(node): str(urlsplit(address).hostname) for node, address in rows}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answered]:
    folder = tmp_path_factory.mktemp("four")
    progress = Progress()
    spec = SlurmSpec(nodes=4, gpus=1, sched_interval_s=1)
    with berth.running(folder, demomodel.ensure(progress), progress, spec, QUICK) as running:
        catalog = folder / "catalog.yaml"
        catalog.write_text(json.dumps(CATALOG))  # JSON is YAML
        running.site.manage(["catalog", "apply", str(catalog)])
        yield Answered(Whole(running))


def test_a_request_is_answered_on_each_of_four_hosts_at_its_own_address(answered: Answered) -> None:
    assert answered.texts == {name: f"this is {name}" for name in NAMES}
    nodes = answered.whole.slurm.spec.node_names
    assert sorted(pilot["node"] for pilot in answered.pilots.values()) == sorted(nodes)
    own = answered.whole.slurm.hosts
    assert answered.addresses() == {name: own[name].address for name in nodes}
    assert len(set(answered.addresses().values())) == 4


def test_nothing_that_a_job_is_told_or_says_of_itself_names_loopback(answered: Answered) -> None:
    whole = answered.whole
    assert not whole.one("SELECT count(*) FROM catalog_profile WHERE door_address <> ''"), "found by itself"
    jobs = whole.live_jobs()
    assert len(jobs) == 4
    told = {
        f"script of job {job}": whole.slurm.run("scontrol", "write", "batch_script", str(job), "-")
        for job in jobs
    }
    secrets = list((whole.site.run_dir / "spool").rglob("*.json"))
    assert len(secrets) >= 4
    told |= {str(path): path.read_text() for path in secrets}
    told |= {f"process {pid}": _environment(pid) for pid in _agents(whole)}
    told |= {f"row of {node}": address for node, address in answered.addresses().items()}
    told["slurm.conf"] = whole.slurm.conf.read_text()
    assert {what: found.group() for what, text in told.items() if (found := LOOPBACK.search(text))} == {}


def test_what_listens_on_a_node_is_slurms_daemon_and_the_ingress_at_its_own_address(
    answered: Answered,
) -> None:
    slurm = answered.whole.slurm
    for pid in _agents(answered.whole):
        node = next(name for name in slurm.spec.node_names if f"SLURMD_NODENAME={name}" in _environment(pid))
        listening = _listening(pid)
        assert {address for address, port in listening if port != 6818} == {slurm.hosts[node].address}


def test_from_a_node_only_the_portal_is_reached_and_neither_database_nor_redis(answered: Answered) -> None:
    """PostgreSQL and Redis listen on loopback only; and on a node's own loopback nobody answers for the portal."""
    site, stack, slurm = answered.whole.site, answered.whole.berth.stack, answered.whole.slurm
    assert stack.postgres is not None and stack.redis is not None
    code = "import sys; from devstack import ports; print(ports.accepts(int(sys.argv[2]), 2, sys.argv[1]))"

    def from_node(node: str, address: str, port: int) -> bool:
        path = f"PYTHONPATH={Path(ports.__file__).parent.parent}"
        return slurm.hosts.run(node, "env", path, sys.executable, "-c", code, address, str(port)) == "True\n"

    for node in slurm.spec.node_names:
        assert from_node(node, slurm.portal_addresses[0], site.port)
    for address in ("127.0.0.1", *slurm.portal_addresses):
        for port in (stack.postgres.port, stack.redis.port):
            assert ports.accepts(port) and not from_node("gpu01", address, port)
    assert not from_node("gpu01", "127.0.0.1", site.port)


def _agents(whole: Whole) -> list[int]:
    """Find the agents of all jobs, one on each node."""
    found = list(whole._pids_of("gpuworker.agent"))
    assert len(found) == 4
    return found


def _environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text().replace("\0", "\n")


def _listening(pid: int) -> set[tuple[str, int]]:
    """Return addresses and ports in state LISTEN in that process's network.

    An IPv4 address is written as such, an IPv6 one as hexadecimal digits.
    """
    found = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == "0A":
                raw, _, port = local.partition(":")
                address = (
                    ".".join(str(byte) for byte in reversed(bytes.fromhex(raw))) if len(raw) == 8 else raw
                )
                found.add((address, int(port, 16)))
    return found
