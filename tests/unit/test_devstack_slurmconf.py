"""What a private cluster is: the text of its configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from devstack.slurmconf import ClusterSite, Place, SlurmSpec, cgroup_conf, gres_conf, slurm_conf

SITE = ClusterSite(
    home=Path("/run/c"),
    user="alice",
    munge_socket=Path("/run/c/munge/socket"),
    controller=Place("box", "127.0.1.1", 20_000),
    nodes=(Place("box", "127.0.1.1", 20_001), Place("box", "127.0.1.1", 20_002)),
    bind=True,
    first_job_id=1001,
)


def test_each_node_has_its_own_port_gpus_and_spool() -> None:
    text = slurm_conf(SlurmSpec(nodes=2, gpus=3, gpu_type="h100"), SITE)
    nodes = [line for line in text.splitlines() if line.startswith("NodeName=")]
    assert [line.split()[0] for line in nodes] == ["NodeName=gpu01", "NodeName=gpu02"]
    assert "Port=20001" in nodes[0]
    assert "Port=20002" in nodes[1]
    assert all("Gres=gpu:h100:3" in line for line in nodes)
    assert "SlurmdSpoolDir=/run/c/%n" in text


def test_daemons_bind_to_the_loopback_address_that_the_host_name_means() -> None:
    text = slurm_conf(SlurmSpec(nodes=2), SITE)
    assert "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny" in text
    assert "SlurmctldHost=box(127.0.1.1)" in text
    assert text.count("NodeAddr=127.0.1.1") == 2


def test_a_host_name_that_means_no_loopback_address_still_makes_a_cluster() -> None:
    text = slurm_conf(SlurmSpec(nodes=2), replace(SITE, bind=False))
    assert "InAddrAny" not in text


def test_nodes_with_hosts_of_their_own_differ_in_address_and_name_and_share_the_port() -> None:
    nodes = (Place("gpu01", "10.231.7.11", 6818), Place("gpu02", "10.231.7.12", 6818))
    site = replace(SITE, controller=Place("ctl", "10.231.7.2", 20_000), nodes=nodes, bind=False)
    text = slurm_conf(SlurmSpec(nodes=2, accounting=True), site)
    assert "SlurmctldHost=ctl(10.231.7.2)" in text
    assert "NodeName=gpu01 NodeHostname=gpu01 NodeAddr=10.231.7.11 Port=6818 " in text
    assert "NodeName=gpu02 NodeHostname=gpu02 NodeAddr=10.231.7.12 Port=6818 " in text
    assert "AccountingStorageHost=10.231.7.2" in text
    assert "127.0" not in text and "localhost" not in text


def test_the_cluster_asks_its_own_munge() -> None:
    lines = slurm_conf(SlurmSpec(nodes=2), SITE).splitlines()
    assert "AuthInfo=socket=/run/c/munge/socket" in lines


def test_preemption_adds_a_partition_that_gives_way() -> None:
    assert "PreemptType" not in slurm_conf(SlurmSpec(nodes=2), SITE)
    text = slurm_conf(SlurmSpec(nodes=2, preemption=True, grace_s=20), SITE)
    assert "PreemptType=preempt/partition_prio" in text
    assert "PartitionName=spare PriorityTier=1 PreemptMode=CANCEL GraceTime=20" in text


def test_given_partitions_replace_the_usual_ones_and_extra_lines_are_kept() -> None:
    spec = SlurmSpec(
        nodes=2, partitions=("PartitionName=mine Nodes=ALL",), extra=("UnkillableStepTimeout=7",)
    )
    lines = slurm_conf(spec, SITE).splitlines()
    assert [line for line in lines if line.startswith("PartitionName")] == ["PartitionName=mine Nodes=ALL"]
    assert "UnkillableStepTimeout=7" in lines


def test_gpus_are_files_because_a_bare_count_makes_nodes_invalid() -> None:
    assert "File=/x/nvidia[0-3]" in gres_conf(SlurmSpec(), Path("/x"))
    assert "File=/x/nvidia0\n" in gres_conf(SlurmSpec(gpus=1), Path("/x"))


def test_slurmd_is_kept_away_from_the_machines_cgroups_in_the_words_of_its_release() -> None:
    assert cgroup_conf((22, 5)) == "CgroupPlugin=cgroup/v1\n"
    assert cgroup_conf((24, 11)) == "CgroupPlugin=disabled\n"
