"""The Slurm client that speaks to slurmrestd: no Slurm command, no library and no shell where the portal runs.

For releases 23.11 to 26.05, by v0.0.42 or v0.0.40 of its interface. slurmrestd ignores `#SBATCH` lines, so the job's
fields come from the table of directives; what the login node's shell did, the job does for itself (decisions/0027).
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

from scheduler.slurm import errors, rest_shapes
from scheduler.slurm.directives import rest_fields
from scheduler.slurm.errors import Refusal
from scheduler.slurm.job_environment import local_tail, without_shell
from scheduler.slurm.protocol import (
    Jobs,
    NoAnswer,
    NotOffered,
    PartitionInfo,
    Rejected,
    ReservationInfo,
    UsageInfo,
)
from scheduler.slurm.render import check
from scheduler.slurm.rest_link import MAX_BYTES, NotFound, RestLink
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way

# The higher one of those that a server lists is spoken.
VERSIONS = ("v0.0.42", "v0.0.40")
# A listing that says "nothing has changed" is believed for so long, whatever the clocks of two machines say.
WHOLE_EVERY_S = 60.0

Data = dict[str, Any]


class RestClient:
    """See SlurmClient. `limit_s` bounds each question, `max_bytes` each answer; `versions`, the best first."""

    def __init__(
        self,
        way: Way,
        *,
        limit_s: float = 20.0,
        max_bytes: int = MAX_BYTES,
        versions: tuple[str, ...] = VERSIONS,
    ) -> None:
        self._way = way
        self._versions = versions
        self._link = RestLink(way, limit_s, max_bytes)
        self._version = ""
        self._accounting = self._cancels_many = False
        self._kept: Jobs = {}
        self._kept_update = 0
        self._whole_at = -WHOLE_EVERY_S

    def submit(self, script: str, spec: JobSpec) -> int:
        check(spec)
        fields, environment = without_shell(rest_fields(spec), spec)
        job = {**fields, "environment": [f"{name}={value}" for name, value in environment.items()]}
        try:
            with self._link.within_limit():
                answer = self._ask("POST", "job/submit", {"script": script, "job": job})
        except Refusal as error:
            raise Rejected(error.reason) from None
        job_id = answer.get("job_id")
        if not isinstance(job_id, int) or job_id <= 0:
            raise NoAnswer(f"{self._way.said}: it took the job and named no id")
        return job_id

    def jobs(self) -> Jobs:
        if self._kept_update and time.monotonic() - self._whole_at < WHOLE_EVERY_S:
            answer = self._read_changes()
            if answer is not None and rest_shapes.unchanged(answer):
                return self._kept
        else:
            answer = None
        if answer is None or not rest_shapes.listed_at(answer):
            self._whole_at = time.monotonic()
            answer = self._read("jobs/?flags=ALL")  # not DETAIL: nothing here needs it
        self._kept_update = rest_shapes.listed_at(answer)
        if not self._kept_update:
            raise NoAnswer(f"{self._way.said}: jobs: a listing that does not say of when it is")
        self._kept = rest_shapes.jobs(answer, self._link.user)
        return self._kept

    def _read_changes(self) -> Data | None:
        """Read the listing, or that it is the same as before; None where the server does not take the
        question."""
        try:
            # "uts" and the seconds: v0.0.40 takes a bare number for a date.
            return self._ask("GET", f"jobs/?flags=ALL&update_time=uts{self._kept_update}")
        except Refusal:
            return None

    def cancel(self, job_ids: list[int]) -> None:
        refusals: list[str] = []
        ids = [str(job_id) for job_id in map(int, job_ids) if self._may_end(job_id, refusals)]
        if ids and self._cancels_many:
            self._cancel("jobs/", {"jobs": ids}, refusals)
        elif ids:  # the first releases of 23.11
            for job_id in ids:
                self._cancel(f"job/{job_id}", None, refusals)
        if refusals:
            raise Rejected("; ".join(refusals)[:500])

    def _may_end(self, job_id: int, refusals: list[str]) -> bool:
        """Tell whether the number is still that of a job of our user.

        A controller that lost its last moments gives numbers again. One that slurmrestd asks to end a
        stranger's job may stand still for good (24.11.5 did).
        """
        try:
            owner = rest_shapes.owner(self._ask("GET", f"job/{job_id}"), job_id)
        except Refusal as error:
            if error.number not in errors.GONE:
                refusals.append(f"job {job_id}: {self._spoken(error)}")
            return False
        if owner not in ("", self._link.user):
            refusals.append(f"job {job_id}: it is {owner}'s, and Berth is {self._link.user or 'nobody'} here")
        return bool(owner) and owner == self._link.user

    def _spoken(self, error: Refusal) -> str:
        """Return Slurm's words, or raise NoAnswer where they name nothing.

        That is how slurmrestd says, too, that no controller was there. Of a submission such words are those
        of a site's plugin that says no.
        """
        if error.number == errors.UNSPECIFIED:
            raise NoAnswer(f"{self._way.said}: {error.reason}")
        return error.reason

    def _cancel(self, path: str, body: Data | None, refusals: list[str]) -> None:
        try:
            answer = self._ask("DELETE", path, body)
        except Refusal as error:
            many = body["jobs"] if body is not None else ()
            if error.number not in errors.GONE and len(many) > 1:  # which one it is about is not said
                for one in many:
                    self._cancel(path, {"jobs": [one]}, refusals)
            elif error.number not in errors.GONE:
                refusals.append(f"{path.rstrip('/').replace('/', ' ')}: {self._spoken(error)}")
            return
        for row in rest_shapes.not_cancelled(answer, listed=body is not None):
            if row.code in errors.GONE:
                continue
            if errors.meaning(row.code) == "unheard":
                raise NoAnswer(f"{self._way.said}: cancel {row.job}: {row.words}")
            refusals.append(f"job {row.job}: {row.words}")

    def partitions(self) -> dict[str, PartitionInfo]:
        return rest_shapes.partitions(self._read("partitions/?flags=ALL"), self._read("nodes/?flags=ALL"))

    def reservations(self) -> dict[str, ReservationInfo]:
        return rest_shapes.reservations(self._read("reservations/"))

    def accounts(self) -> dict[str, list[str]]:
        self._want_accounting()
        return rest_shapes.accounts(
            self._read(f"associations/?user={quote(self._link.user)}", room="slurmdb")
        )

    def estimate_start(self, spec: JobSpec) -> float:
        raise NotOffered(f"{self._way.said}: slurmrestd has no dry run")

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        self._want_accounting()
        found: dict[int, UsageInfo] = {}
        for job_id in job_ids:
            try:
                found |= rest_shapes.usage(self._ask("GET", f"job/{int(job_id)}", room="slurmdb"))
            except Refusal as error:
                if error.number != errors.NOTHING_FOUND:
                    raise NoAnswer(f"{self._way.said}: usage of {job_id}: {error.reason}") from None
        return found

    def log_tail(self, path: str, max_bytes: int) -> str:
        return local_tail(path, max_bytes, self._way)

    def forget(self, secret_path: str) -> None:
        raise NotOffered(f"{self._way.said}: the secret was never in a file of ours")

    def _read(self, path: str, room: str = "slurm") -> Data:
        """Ask a question that Slurm has no reason to refuse: a refusal is no answer then."""
        try:
            return self._ask("GET", path, room=room)
        except Refusal as error:
            raise NoAnswer(f"{self._way.said}: {path.partition('?')[0]}: {error.reason}") from None

    def _ask(self, method: str, path: str, body: Data | None = None, room: str = "slurm") -> Data:
        """Ask under the version that was chosen; once more under a new choice where the server knows it no
        longer."""
        known = bool(self._version)
        try:
            return self._link.ask(method, f"/{room}/{self._chosen()}/{path}", body)
        except NotFound:
            if not known:
                raise
            self._version = ""
        return self._link.ask(method, f"/{room}/{self._chosen()}/{path}", body)

    def _chosen(self) -> str:
        """Return the version to speak. Raise NoAnswer where the server speaks neither."""
        if not self._version:
            paths = self._link.ask("GET", "/openapi/v3", document=True).get("paths")
            if not isinstance(paths, dict):
                raise NoAnswer(f"{self._way.said}: /openapi/v3 lists no paths")
            listed = set(re.findall(r"/(slurm|slurmdb)/(v[0-9.]+)/jobs/?(?=\s|$)", "\n".join(paths)))
            spoken = [version for version in self._versions if ("slurm", version) in listed]
            if not spoken:
                has = ", ".join(sorted({version for _, version in listed})) or "none"
                raise NoAnswer(
                    f"{self._way.said}: it serves {has}, and Berth speaks {' and '.join(self._versions)} (Slurm 23.11 to "
                    "26.05): use Slurm's commands (a way of kind cli)"
                )
            self._version, self._accounting = spoken[0], ("slurmdb", spoken[0]) in listed
            self._cancels_many = "delete" in (paths.get(f"/slurm/{spoken[0]}/jobs/") or {})
        return self._version

    def _want_accounting(self) -> None:
        self._chosen()
        if not self._accounting:
            raise NotOffered(f"{self._way.said}: slurmrestd serves no accounting here")
