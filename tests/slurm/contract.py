"""What every SlurmClient must do, against a real Slurm.

A client's test module subclasses `Contract` and gives the fixtures `client` and `cluster`.
"""

from __future__ import annotations

import getpass
import json
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from devstack.slurm import Slurm

from scheduler.slurm.protocol import JobInfo, NoAnswer, Rejected, SlurmClient
from scheduler.slurm.render import render
from scheduler.slurm.spec import JobSpec, SecretFile


def until(check: Callable[[], object], limit_s: float = 180.0) -> None:
    """Waits until check() is true; fails after limit_s."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not check():
        assert time.monotonic() < deadline, f"not so within {limit_s:g} s"
        pause.wait(0.05)


def make_spec(folder: Path) -> JobSpec:
    """A pilot whose agent is a shell script in `folder`."""
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


class Contract:
    """Named as sentences; each runs against a private cluster."""

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

    def test_the_agent_gets_its_secret_its_environment_and_the_signal_settings(
        self, client: SlurmClient, spec: JobSpec, cluster: Slurm
    ) -> None:
        told = replace(
            spec, door_address="127.0.0.1", door_ports="40000-40010", prologue="export FROM_PROLOGUE=yes"
        )
        job_id = client.submit(render(told), told)
        until(lambda: "s3cret-key" in client.log_tail(told.log_path, 100_000))
        log = client.log_tail(told.log_path, 100_000)
        for line in (
            f"argv -m gpuworker --secret {told.secret.path}",
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
        assert Path(told.secret.path).stat().st_mode & 0o777 == 0o600
        assert "s3cret-key" not in cluster.run("scontrol", "show", "job", str(job_id), "-dd")
        assert "s3cret-key" not in cluster.run("scontrol", "write", "batch_script", str(job_id), "-")
        client.cancel([job_id])
        client.forget(told.secret.path)
        assert not Path(told.secret.path).exists()
        client.forget(told.secret.path)

    def test_nothing_of_the_submitting_environment_reaches_the_job(
        self, client: SlurmClient, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BERTH_DATABASE_URL", "postgresql://hidden")
        monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
        monkeypatch.setenv("SBATCH_HOLD", "1")
        job_id = client.submit(render(spec), spec)
        until(lambda: "s3cret-key" in client.log_tail(spec.log_path, 100_000))
        log = client.log_tail(spec.log_path, 100_000)
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

    def test_a_refusal_carries_slurms_reason(self, client: SlurmClient, spec: JobSpec) -> None:
        wrong = replace(spec, partition="nowhere")
        with pytest.raises(Rejected, match="partition"):
            client.submit(render(wrong), wrong)
        wrong = replace(spec, gres="gpu:a100:99")
        with pytest.raises(Rejected, match="not available"):
            client.submit(render(wrong), wrong)

    def test_partitions_reservations_and_an_estimate(
        self, client: SlurmClient, spec: JobSpec, cluster: Slurm
    ) -> None:
        gpu = client.partitions()["gpu"]
        assert gpu.up
        assert sum(group.count for group in gpu.groups) == cluster.spec.nodes
        assert "gpu:a100" in gpu.groups[0].gres
        assert client.reservations() == {}
        now = time.time()
        assert now - 5 <= client.estimate_start(spec) <= now + 600
        with pytest.raises(Rejected):
            client.estimate_start(replace(spec, partition="nowhere"))
        when = ("StartTime=now+3hours", "Duration=60", f"Users={getpass.getuser()}", "Nodes=ALL")
        cluster.run("scontrol", "create", "reservation", "ReservationName=work", *when)
        try:
            work = client.reservations()["work"]
            assert work.starts_at is not None
            assert work.ends_at == work.starts_at + 3600
        finally:
            cluster.run("scontrol", "delete", "ReservationName=work")

    def test_without_accounting_what_it_knows_is_no_answer(self, client: SlurmClient) -> None:
        with pytest.raises(NoAnswer):
            client.usage([1])
        with pytest.raises(NoAnswer):
            client.accounts()

    def test_a_controller_that_is_gone_is_no_answer(
        self, client: SlurmClient, spec: JobSpec, cluster: Slurm
    ) -> None:
        cluster.stop_controller()
        try:
            verbs: list[Callable[[], object]] = [
                client.jobs,
                client.partitions,
                client.reservations,
                lambda: client.submit(render(spec), spec),
                lambda: client.cancel([1]),
                lambda: client.estimate_start(spec),
            ]
            # Each takes seconds to give up, so all at once.
            with ThreadPoolExecutor(len(verbs)) as pool:
                for asked in [pool.submit(verb) for verb in verbs]:
                    assert isinstance(asked.exception(), NoAnswer)
        finally:
            cluster.start_controller()
        assert spec.name not in client.jobs()
