"""A model over two nodes, on two hosts with addresses of their own: it answers, it dies and is handed over as a whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import hosts

from tests.slurm.scenario import Scenario
from tests.slurm.test_handover import LIVE, Load, end_soon, ended
from tests.slurm.whole import POOL, WORDS, Whole

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}"),
]

HEAD, RANK, HELPER = "gpuworker.engines.echo_server", "gpuworker.engines.echo_rank", "gpuworker.node"


@pytest.fixture
def wide(whole: Whole) -> Iterator[Whole]:
    """Spread the pool over two nodes with two GPUs each, under a profile that allows it."""
    whole.empty()
    with whole.profile(nodes=2):
        whole.rows("UPDATE catalog_pool SET nodes = 2, gpus = 2 WHERE name = %s", POOL)
        yield whole
        whole.empty()
        whole.rows("UPDATE catalog_pool SET nodes = 1, gpus = 1 WHERE name = %s", POOL)
    whole.until(lambda: not any(everything(whole)), what="no process of an engine or a helper on any node")


def networks(whole: Whole) -> dict[str, str]:
    """Return this cluster's node by network namespace: other clusters may run beside it."""
    names = whole.slurm.spec.node_names
    return {whole.slurm.hosts.run(name, "readlink", "/proc/self/ns/net").strip(): name for name in names}


def pids(whole: Whole, module: str) -> dict[int, str]:
    """Return the node of the cluster by process that runs this module there."""
    known, found = networks(whole), {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"-m", module.encode()]:
                found[int(entry.name)] = known.get(str((entry / "ns/net").readlink()), "")
        except OSError:
            continue
    return {pid: node for pid, node in found.items() if node}


def everything(whole: Whole) -> list[dict[int, str]]:
    return [pids(whole, module) for module in (HEAD, RANK, HELPER)]


def variable(pid: int, name: str) -> str:
    pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return next((value for key, _, value in pairs if key == name), "")


def test_it_answers_on_two_hosts_and_when_a_rank_is_killed_it_dies_as_a_whole_and_comes_again(
    wide: Whole,
) -> None:
    scenario = Scenario(wide)
    scenario.ask()
    scenario.answered()
    heads, ranks, helpers = everything(wide)
    assert [list(found.values()) for found in (heads, ranks, helpers)] == [["gpu01"], ["gpu02"], ["gpu02"]]
    [head], [rank] = heads, ranks
    assert [variable(pid, "CUDA_VISIBLE_DEVICES") for pid in (head, rank)] == ["0,1", "0,1"]
    [(node, nodes, gpus, names)] = wide.rows(
        "SELECT node, nodes, gpus, gpu_ids FROM fleet_pilot WHERE state = 'up'"
    )
    assert (node, nodes, gpus, names) == ("gpu[01-02]", 2, 4, ["0", "1", "0", "1"])
    assert wide.rows("SELECT gpu_indices FROM fleet_replica WHERE state = 'hot'") == [([0, 1, 2, 3],)]
    [job] = wide.live_jobs()

    os.kill(rank, signal.SIGKILL)
    wide.until(lambda: not pids(wide, HEAD), what="the end of the other part")
    scenario.ask(3)
    scenario.answered()
    again = pids(wide, RANK)
    assert list(again.values()) == ["gpu02"] and rank not in again
    [failed] = wide.rows(
        "SELECT end_reason FROM fleet_replica WHERE state = 'failed' ORDER BY ended_at DESC LIMIT 1"
    )
    assert "its part on node gpu02: ended with exit code 137" in failed[0]
    assert wide.live_jobs() == {job}, "in the same job"
    assert pids(wide, HELPER) == helpers


@pytest.mark.nightly  # a minute
def test_it_is_handed_over_as_a_whole(wide: Whole) -> None:
    scenario = Scenario(wide)
    wide.tune(load_s=0.5, tokens_per_s=40)
    scenario.ask()
    scenario.answered()
    with Load(wide, clients=2) as load:
        old = end_soon(wide, 45)
        wide.until(lambda: ended(wide, old), 150, "the end of the old job")
        before = load.answers
        wide.until(lambda: load.answers > before + 2, what="answers of the new job")
    assert load.wrong == []
    scenario.answered()
    [(new,)] = wide.rows(LIVE)
    [(replaced, nodes, early)] = wide.rows(
        """SELECT n.replaces_id::text, n.nodes, r.hot_at < o.slurm_end_at
           FROM fleet_pilot n JOIN fleet_pilot o ON o.id = n.replaces_id JOIN fleet_replica r ON r.pilot_id = n.id
           WHERE n.id = %s""",
        new,
    )
    assert (replaced, nodes, early) == (old, 2, True)


@pytest.mark.nightly  # a node's silence takes its time
def test_when_a_node_is_lost_the_job_ends_and_the_work_waits_for_two_nodes(wide: Whole) -> None:
    scenario = Scenario(wide)
    scenario.ask()
    scenario.answered()
    [job] = wide.live_jobs()
    wide.slurm.hosts.cut("gpu02")
    try:
        scenario.post()  # a job that nobody needs any more would just be let go
        wide.until(lambda: wide.pilot(job)["state"] == "ended", 240, "the end of the job")
        lost = wide.pilot(job)["end_reason"]
        assert "one of its nodes was lost" in lost or "its node failed" in lost
        wide.until(lambda: not pids(wide, HEAD), 60, "the end of the head's part")
    finally:
        wide.slurm.hosts.mend("gpu02")
    scenario.answered(300)
    assert wide.failures() == 0


def test_each_of_several_replicas_in_one_job_has_its_own_device(whole: Whole) -> None:
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=200)
    [(mem_mb,)] = whole.rows("SELECT mem_mb FROM catalog_pool WHERE name = %s", POOL)
    whole.rows(
        "UPDATE catalog_pool SET min_replicas = 2, max_replicas = 2, mem_mb = 1000 WHERE name = %s", POOL
    )
    try:
        whole.until(lambda: whole.one("SELECT count(*) FROM fleet_replica WHERE state = 'hot'") == 2)
        assert len(whole.live_jobs()) == 1
        heads = pids(whole, HEAD)
        assert sorted(variable(pid, "CUDA_VISIBLE_DEVICES") for pid in heads) == ["0", "1"]
        assert {variable(pid, "CUDA_DEVICE_ORDER") for pid in heads} == {"PCI_BUS_ID"}
        assert len(set(heads.values())) == 1
        assert whole.ask().result() == WORDS
    finally:
        back = "UPDATE catalog_pool SET min_replicas = 0, max_replicas = 1, mem_mb = %s WHERE name = %s"
        whole.rows(back, mem_mb, POOL)
        whole.empty()


def test_a_job_with_fewer_devices_than_it_asked_for_says_so_to_those_who_wait(whole: Whole) -> None:
    """The prologue takes one away, as a GPU does that has fallen off the bus."""
    whole.empty()
    whole.tune(load_s=0, tokens_per_s=200)
    with whole.profile(prologue="export CUDA_VISIBLE_DEVICES=0"):
        held, detached = whole.ask(), whole.post()
        assert "model_unavailable" in held.result()
        said = str(whole.one("SELECT reason FROM fleet_poolstate WHERE latched_at IS NOT NULL"))
        assert "asked for 2 GPUs and has 1: CUDA_VISIBLE_DEVICES=0" in said
        ends = "SELECT end_reason FROM fleet_pilot WHERE end_reason LIKE '%%could not serve%%'"
        assert "gres.conf" in str(whole.one(ends))
    whole.relaunch()
    whole.until(lambda: whole.detail(detached)["state"] == "done", what="the answer after a relaunch")
    assert whole.text_of(detached) == WORDS
