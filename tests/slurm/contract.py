"""What every SlurmClient must do, against a real Slurm.

A client's test module subclasses `Contract`, names its kind and gives the fixtures `client`, `cluster` and `broken`. What
each verb comes to in each situation, with the same faults injected for each client, is the table of `outcomes`.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from devstack.slurm import Slurm

from scheduler.slurm.protocol import JobInfo, NotOffered, Rejected, SlurmClient
from scheduler.slurm.render import render
from scheduler.slurm.spec import JobSpec, SecretFile
from tests.slurm import outcomes

# A partition for everybody, and one for nobody: whoever runs the tests may not use it.
PARTITIONS = (
    "PartitionName=gpu Default=YES Nodes=ALL MaxTime=240 DefaultTime=30 State=UP",
    "PartitionName=closed Nodes=ALL MaxTime=240 State=UP DisableRootJobs=YES AllowGroups=daemon",
)
# Commands give up after some multiples of it.
QUICK = "MessageTimeout=3"

Ask = dict[str, Callable[[], object]]


def until(check: Callable[[], object], limit_s: float = 180.0) -> None:
    """Wait until check() is true; fail after `limit_s`."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not check():
        assert time.monotonic() < deadline, f"not so within {limit_s:g} s"
        pause.wait(0.05)


def make_spec(folder: Path) -> JobSpec:
    """Return a pilot whose agent is a shell script in `folder`."""
    pilot = uuid.uuid4().hex
    return JobSpec(
        name=f"berth-test-{pilot}",
        pilot=pilot,
        log_path=f"{folder}/log/{pilot}.out",
        agent_python=f"{folder}/agent",
        agent_home=str(folder),
        secret=SecretFile(
            f"{folder}/secret/{pilot}.json", json.dumps({"pilot": pilot, "ingress_key": "s3cret-key"})
        ),
        limit_min=5,
        least_limit_min=2,
        cpus=1,
        mem_mb=100,
        partition="gpu",
        gres="gpu:a100:1",
    )


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\necho "argv $*"; env | sort; cat "$4"; exec sleep 300\n')
    agent.chmod(0o755)
    return make_spec(tmp_path)


def release(cluster: Slurm) -> str:
    """Return the cluster's release, e.g. 24.11."""
    found = re.search(r"\d+\.\d+", cluster.run("scontrol", "--version"))
    assert found is not None
    return found.group()


def verbs(client: SlurmClient, spec: JobSpec) -> Ask:
    """Return a call of each verb."""
    return {
        "submit": lambda: client.submit(render(spec), spec),
        "jobs": client.jobs,
        "cancel": lambda: client.cancel([60_000_000]),
        "partitions": client.partitions,
        "reservations": client.reservations,
        "estimate_start": lambda: client.estimate_start(spec),
        "usage": lambda: client.usage([1]),
        "accounts": client.accounts,
        "log_tail": lambda: client.log_tail(spec.log_path, 100),
        "forget": lambda: client.forget(spec.secret.path),
    }


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Stop a process, so that it accepts what it is sent and sends nothing, as one does whose disk is
    gone."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def nothing_starts(cluster: Slurm) -> Iterator[None]:
    """Let nothing start in the partition meanwhile."""
    cluster.run("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", "PartitionName=gpu", "State=UP")


class Contract:
    """The contract of a client: tests named as sentences, each of which runs against a private cluster."""

    kind: ClassVar[str]  # of Way

    def job(self, client: SlurmClient, spec: JobSpec) -> JobInfo:
        found = client.jobs()[spec.name]
        assert len(found) == 1
        return found[0]

    def test_a_job_is_listed_by_name_from_submission_to_its_end(
        self, client: SlurmClient, spec: JobSpec
    ) -> None:
        job_id = client.submit(render(spec), spec)
        assert self.job(client, spec).job_id == job_id
        until(lambda: self.job(client, spec).state == "RUNNING")
        running = self.job(client, spec)
        assert running.nodes.startswith("gpu")
        assert running.started_at is not None
        assert abs(running.started_at - time.time()) < 300  # UTC, whatever this machine's zone is
        assert running.ends_at is not None
        assert 100 <= running.ends_at - running.started_at <= 300  # between --time-min and --time
        client.cancel([job_id])
        until(lambda: self.job(client, spec).state == "CANCELLED")
        client.cancel([job_id])

    def test_a_job_is_listed_with_its_nodes_also_while_it_waits(
        self, client: SlurmClient, spec: JobSpec, cluster: Slurm
    ) -> None:
        wide = replace(spec, nodes=2)
        with nothing_starts(cluster):
            job_id = client.submit(render(wide), wide)
            waiting = self.job(client, wide)
        assert (waiting.state, waiting.nodes, waiting.node_count) == ("PENDING", "", 2)
        until(lambda: self.job(client, wide).state == "RUNNING")
        assert self.job(client, wide).node_count == 2
        client.cancel([job_id])

    def test_the_agent_gets_its_secret_its_environment_and_the_signal_settings(
        self, client: SlurmClient, spec: JobSpec, cluster: Slurm
    ) -> None:
        told = replace(
            spec, door_address="127.0.0.1", door_ports="40000-40010", prologue="export FROM_PROLOGUE=yes"
        )
        job_id = client.submit(render(told), told)
        log_path = Path(told.log_path)
        until(lambda: log_path.exists() and "s3cret-key" in log_path.read_text())
        log = client.log_tail(told.log_path, 100_000)
        carried = self.kind != "cli"
        for line in (
            f"argv -m gpuworker --secret {'-' if carried else told.secret.path}",
            f"BERTH_PILOT={told.pilot}",
            f"BERTH_JOB_LOG={told.log_path}",
            "BERTH_DOOR_ADDRESS=127.0.0.1",
            "BERTH_DOOR_PORTS=40000-40010",
            f"PYTHONPATH={told.agent_home}",
            "SLURM_EXPORT_ENV=ALL",
            f"SLURM_JOB_ID={job_id}",
            "FROM_PROLOGUE=yes",
        ):
            assert line in log.splitlines()
        started = next(line for line in log.splitlines() if line.startswith("BERTH_STARTED_AT="))
        assert abs(float(started.partition("=")[2]) - time.time()) < 300
        assert log.count("s3cret-key") == 1  # as it was handed over, and in nobody's environment
        self._shows_nothing(cluster, job_id)
        if carried:
            assert not Path(told.secret.path).exists()
            with pytest.raises(NotOffered):
                client.forget(told.secret.path)
        else:
            assert Path(told.secret.path).stat().st_mode & 0o777 == 0o600
            client.forget(told.secret.path)
            assert not Path(told.secret.path).exists()
            client.forget(told.secret.path)
        client.cancel([job_id])

    def _shows_nothing(self, cluster: Slurm, job_id: int) -> None:
        """Check that Slurm shows the secret to nobody who asks for the job or its script."""
        assert "s3cret-key" not in cluster.run("scontrol", "show", "job", str(job_id), "-dd")
        assert "s3cret-key" not in cluster.run("scontrol", "write", "batch_script", str(job_id), "-")
        assert "s3cret-key" not in cluster.run("squeue", "-a", "-h", "-j", str(job_id), "-O", "all:1000")

    def test_nothing_of_the_submitting_environment_reaches_the_job(
        self, client: SlurmClient, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BERTH_DATABASE_URL", "postgresql://hidden")
        monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
        monkeypatch.setenv("SBATCH_HOLD", "1")
        job_id = client.submit(render(spec), spec)
        log_path = Path(spec.log_path)
        until(lambda: log_path.exists() and "s3cret-key" in log_path.read_text())
        log = log_path.read_text()
        assert "hidden" not in log
        # Nor of the user's log-in shell, whose start would delay every job by seconds.
        assert not [line for line in log.splitlines() if line.startswith(("TZ=", "SHELL=", "MAIL="))]
        client.cancel([job_id])

    def test_two_jobs_of_one_name_are_both_listed_the_lower_id_first(
        self, client: SlurmClient, spec: JobSpec
    ) -> None:
        ids = [client.submit(render(spec), spec) for _ in range(2)]
        assert [info.job_id for info in client.jobs()[spec.name]] == sorted(ids)
        client.cancel(ids)

    def test_a_job_asks_for_what_its_directives_say(
        self, client: SlurmClient, spec: JobSpec, cluster: Slurm
    ) -> None:
        job_id = client.submit(render(spec), spec)
        shown = cluster.run("scontrol", "show", "job", str(job_id))
        for words in (
            "Requeue=0",
            "NumNodes=1",
            "TimeMin=00:02:00",
            "MinMemoryNode=100M",
            "gres/gpu:a100:1|gres:gpu:a100:1",
            "WorkDir=/",
            f"JobName={spec.name}",
            "CPUs/Task=1",
        ):
            assert re.search(words, shown), f"{words} is not in\n{shown}"
        client.cancel([job_id])

    def test_a_refusal_carries_slurms_reason(self, client: SlurmClient, spec: JobSpec) -> None:
        wrong = replace(spec, partition="nowhere")
        with pytest.raises(Rejected, match="partition"):
            client.submit(render(wrong), wrong)
        wrong = replace(spec, gres="gpu:a100:99")
        with pytest.raises(Rejected, match="not available"):
            client.submit(render(wrong), wrong)

    def test_partitions_and_reservations(self, client: SlurmClient, cluster: Slurm) -> None:
        gpu = client.partitions()["gpu"]
        assert gpu.up
        assert gpu.limit_min == 240
        assert sum(group.count for group in gpu.groups) == cluster.spec.nodes
        assert "gpu:a100" in gpu.groups[0].gres
        assert client.reservations() == {}
        when = ("StartTime=now+3hours", "Duration=60", f"Users={getpass.getuser()}", "Nodes=ALL")
        cluster.run("scontrol", "create", "reservation", "ReservationName=work", *when)
        try:
            work = client.reservations()["work"]
            assert work.starts_at is not None
            assert work.ends_at == work.starts_at + 3600
            assert work.node_count == cluster.spec.nodes
            assert "ALL_NODES" in work.flags
        finally:
            cluster.run("scontrol", "delete", "ReservationName=work")

    def test_an_estimate_is_a_time_that_slurm_gives_where_it_is_offered(
        self, client: SlurmClient, spec: JobSpec
    ) -> None:
        now = time.time()
        try:
            estimate = client.estimate_start(spec)
        except NotOffered:
            assert self.kind != "cli"
            return
        assert now - 5 <= estimate <= now + 600
        with pytest.raises(Rejected):
            client.estimate_start(replace(spec, partition="nowhere"))

    @pytest.mark.parametrize("situation", outcomes.SITUATIONS)
    def test_each_verb_comes_to_what_it_must(
        self,
        situation: str,
        cluster: Slurm,
        client: SlurmClient,
        broken: Callable[[str], SlurmClient],
        spec: JobSpec,
    ) -> None:
        wanted = outcomes.expected(self.kind, situation)
        if wanted is None:
            pytest.skip("this cannot befall it")
        partition = {"refused": "nowhere", "denied": "closed"}.get(situation, spec.partition)
        asked = replace(spec, partition=partition)
        Path(spec.log_path).parent.mkdir()
        Path(spec.log_path).write_text("the last words of a job")
        with self.injected(situation, cluster, broken, client) as faced:
            calls = {verb: call for verb, call in verbs(faced, asked).items() if verb in wanted}
            # Those that wait for somebody who is silent wait for seconds: all at once.
            with ThreadPoolExecutor(len(calls)) as pool:
                said = {verb: pool.submit(outcomes.outcome, call) for verb, call in calls.items()}
                seen = {verb: future.result() for verb, future in said.items()}
        outcomes.record(self.kind, release(cluster), situation, seen)
        wrong = {verb: f"{seen[verb]}, not {wanted[verb]}" for verb in wanted if seen[verb] != wanted[verb]}
        assert not wrong, f"{self.kind}, {situation}: {wrong}"
        until(lambda: outcomes.outcome(client.jobs) == outcomes.ANSWER)
        for infos in client.jobs().values():
            client.cancel([info.job_id for info in infos if info.state in ("PENDING", "RUNNING")])

    @contextmanager
    def injected(
        self,
        situation: str,
        cluster: Slurm,
        broken: Callable[[str], SlurmClient],
        client: SlurmClient,
    ) -> Iterator[SlurmClient]:
        """Make the fault, and return who meets it."""
        if situation == "gone":
            cluster.stop_controller()
            try:
                yield client
            finally:
                cluster.start_controller()
        elif situation == "slow":
            with standing_still(cluster.controller_pid):
                yield client
        elif situation == "munge":
            with standing_still(cluster.munge_pid):
                yield client
        elif situation in ("garbage", "token", "forbidden", "late", "too_late"):
            yield broken(situation)
        else:
            yield client
