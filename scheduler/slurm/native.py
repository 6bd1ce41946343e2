"""The Slurm client that speaks Slurm's own protocol through pyslurm, in a helper process.

pyslurm must match the cluster's release, so its interpreter is a setting of the way, built per site
(docs/slurm-clients.md). Neither portal nor scheduler ever imports it: see `native_helper`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from scheduler.slurm import errors
from scheduler.slurm.directives import native_fields
from scheduler.slurm.errors import Refusal
from scheduler.slurm.job_environment import local_tail, without_shell
from scheduler.slurm.native_process import Helper
from scheduler.slurm.protocol import (
    JobInfo,
    Jobs,
    NoAnswer,
    NodeGroup,
    NotOffered,
    PartitionInfo,
    Rejected,
    ReservationInfo,
    UsageInfo,
)
from scheduler.slurm.render import check
from scheduler.slurm.rest_shapes import node_state
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way

Data = dict[str, Any]


class NativeClient:
    """See SlurmClient. `limit_s` bounds each question."""

    def __init__(self, way: Way, *, limit_s: float = 20.0) -> None:
        self._way = way
        self._helper = Helper(way, limit_s)

    @property
    def helper_pid(self) -> int | None:
        """Return the helper's process, where one runs."""
        return self._helper.pid

    def close(self) -> None:
        """End the helper; the next question starts another one."""
        self._helper.close()

    def submit(self, script: str, spec: JobSpec) -> int:
        check(spec)
        fields, environment = without_shell(native_fields(spec), spec)
        try:
            job_id = self._helper.ask("submit", script=script, fields=fields, environment=environment)
        except Refusal as error:
            if errors.meaning(error.number) == "unheard":
                raise NoAnswer(f"{self._way.said}: submit: {error.reason}") from None
            raise Rejected(error.reason) from None
        if not isinstance(job_id, int) or job_id <= 0:
            raise NoAnswer(f"{self._way.said}: it took the job and named no id")
        return job_id

    def jobs(self) -> Jobs:
        found: dict[str, list[JobInfo]] = {}
        for row in self._ask("jobs", user=self._way.user):
            info = JobInfo(**row)
            found.setdefault(info.name, []).append(info)
        return {name: tuple(sorted(infos, key=lambda info: info.job_id)) for name, infos in found.items()}

    def cancel(self, job_ids: list[int]) -> None:
        if not job_ids:
            return
        failed = self._ask("cancel", job_ids=[int(job_id) for job_id in job_ids])
        refusals = []
        for job_id, number, words in failed:
            if number in errors.GONE:
                continue
            if errors.meaning(number) == "unheard":
                raise NoAnswer(f"{self._way.said}: cancel {job_id}: {words}")
            refusals.append(f"job {job_id}: {words}")
        if refusals:
            raise Rejected("; ".join(refusals)[:500])

    def partitions(self) -> dict[str, PartitionInfo]:
        answer = self._ask("partitions")
        groups: dict[str, Counter[tuple[str, str, str, str, tuple[str, ...]]]] = {}
        for node in answer["nodes"]:
            state = node_state(node["state"].replace("*", "+NOT_RESPONDING").upper().split("+"))
            features = tuple(node["features"])
            kind = (state, node["gres"], str(node["cpus"]), str(node["mem_mb"]), features)
            for name in node["partitions"]:
                groups.setdefault(name, Counter())[kind] += 1
        return {
            part["name"]: PartitionInfo(
                part["name"],
                part["state"].upper() == "UP",
                part["limit_min"],
                tuple(NodeGroup(n, *kind) for kind, n in sorted(groups.get(part["name"], Counter()).items())),
            )
            for part in answer["partitions"]
        }

    def reservations(self) -> dict[str, ReservationInfo]:
        found = {}
        for row in self._ask("reservations"):
            found[row["name"]] = ReservationInfo(**{**row, "flags": ",".join(row["flags"])})
        return found

    def accounts(self) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for account, qos in self._ask("accounts", user=self._way.user):
            found.setdefault(account, set()).update(qos)
        return {account: sorted(qos) for account, qos in sorted(found.items())}

    def estimate_start(self, spec: JobSpec) -> float:
        raise NotOffered(f"{self._way.said}: pyslurm has no dry run")

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        if not job_ids:
            return {}
        rows = self._ask("usage", job_ids=[int(job_id) for job_id in job_ids])
        return {row["job_id"]: UsageInfo(**row) for row in rows}

    def log_tail(self, path: str, max_bytes: int) -> str:
        return local_tail(path, max_bytes, self._way)

    def forget(self, secret_path: str) -> None:
        raise NotOffered(f"{self._way.said}: the secret was never in a file of ours")

    def _ask(self, verb: str, **args: Any) -> Any:
        """Ask a question that Slurm has no reason to refuse: a refusal is no answer then."""
        try:
            return self._helper.ask(verb, **args)
        except Refusal as error:
            raise NoAnswer(f"{self._way.said}: {verb}: {error.reason}") from None
