"""Slurm's codes become sentences; only what is certain is an end."""

from __future__ import annotations

import pytest

from portal.fleet.slurm_words import meaning, refused_for_good


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
        ("FAILED", "JobLaunchFailure", "ended", "BERTH_SPOOL/log) is not there"),
        ("FAILED", "RaisedSignal:53(Real-time_signal_19)", "ended", "BERTH_SPOOL/log) is not there"),
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


def test_only_what_would_be_refused_tomorrow_too_is_refused_for_good() -> None:
    for reason in (
        "Invalid time-min specification (exceeds job's time or other limits)",
        "Requested node configuration is not available",
        "Invalid account or account/partition combination specified",
        "invalid partition specified: nope",
    ):
        assert refused_for_good(reason), reason
    for reason in (
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "Requested partition configuration not available now",
        "Slurm temporarily unable to accept job, sleeping and retrying",
    ):
        assert not refused_for_good(reason), reason
