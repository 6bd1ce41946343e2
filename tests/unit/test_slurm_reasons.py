"""Slurm's codes become sentences; only what is certain is an end."""

from __future__ import annotations

import pytest

from portal.fleet.slurm_words import meaning


@pytest.mark.parametrize(
    ("state", "reason", "phase", "part"),
    [
        ("PENDING", "None", "waiting", "not looked"),
        ("PENDING", "Resources", "waiting", "GPUs"),
        ("PENDING", "Priority", "waiting", "ahead"),
        ("PENDING", "ReqNodeNotAvail, May be reserved for other job", "waiting", "reserved"),
        (
            "PENDING",
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "waiting",
            "kept for jobs",
        ),
        ("PENDING", "AssocGrpGRES", "waiting", "limit"),
        ("PENDING", "QOSMaxJobsPerUserLimit", "waiting", "limit"),
        ("PENDING", "SomethingNew", "waiting", "SomethingNew"),
        ("PENDING", "BadConstraints", "hopeless", "no node"),
        ("PENDING", "PartitionTimeLimit", "hopeless", "more time"),
        ("PENDING", "DependencyNeverSatisfied", "hopeless", "depends"),
        ("PENDING", "JobHeldUser", "hopeless", "held"),
        ("PENDING", "JobHeldAdmin", "hopeless", "held"),
        ("RUNNING", "None", "running", "runs"),
        ("COMPLETING", "None", "running", "runs"),
        ("SUSPENDED", "None", "running", "runs"),
        ("COMPLETED", "None", "ended", "ended"),
        ("CANCELLED", "None", "ended", "cancelled"),
        ("FAILED", "NonZeroExitCode", "ended", "NonZeroExitCode"),
        ("TIMEOUT", "TimeLimit", "ended", "time limit"),
        ("PREEMPTED", "None", "ended", "priority"),
        ("OUT_OF_MEMORY", "OutOfMemory", "ended", "memory"),
        ("A_STATE_OF_TOMORROW", "None", "waiting", ""),
    ],
)
def test_what_a_code_means(state: str, reason: str, phase: str, part: str) -> None:
    found = meaning(state, reason)
    assert found.phase == phase
    assert part in found.text
