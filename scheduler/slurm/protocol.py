"""What the scheduler may ask of Slurm, and the kinds of answer it can get.

Every verb either returns what Slurm said, raises `Rejected` (Slurm said no, with its reason), or raises
`NoAnswer` (Slurm was not heard). Only the first two may change anything: silence is not absence
(invariant 1). A verb that is a capability may raise `NotOffered`, too: this client, or this site, has it not,
which is no silence. Separate from the clients, so that command line, slurmrestd and pyslurm answer alike; one
contract suite (tests/slurm/contract.py) holds them to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from scheduler.slurm.spec import JobSpec

LONGEST_WORDS = 4000


def clean(text: str, longest: int = LONGEST_WORDS) -> str:
    """Return words of Slurm's that a table can hold: PostgreSQL takes neither a NUL nor half a surrogate pair, and one
    of them in one job's words would stop every tick. What is longer ends in an ellipsis."""
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


class SlurmError(Exception):
    """The root of what a client raises. Its words go into tables."""

    def __init__(self, words: str = "") -> None:
        super().__init__(clean(words))


class NoAnswer(SlurmError):
    """An error where Slurm was not heard: a time-out, a failing command, or output that is not an answer."""


class Rejected(SlurmError):
    """A refusal: Slurm heard and said no. `reason` is Slurm's own text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = clean(reason)


class NotOffered(SlurmError):
    """An error where this way to Slurm has no such verb: neither an answer nor silence; asking again
    changes nothing."""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """One job of ours as the listing shows it. Times are UNIX seconds; None = Slurm does not know yet."""

    job_id: int
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, COMPLETED, CANCELLED, FAILED, TIMEOUT, NODE_FAIL, …
    reason: str  # "None" or Slurm's reason code
    partition: str
    nodes: str
    submitted_at: float | None
    started_at: float | None  # an estimate while PENDING
    ends_at: float | None  # the limit's end while RUNNING
    node_count: int | None = None  # that it has, or asked for while PENDING; None: not told


Jobs = dict[str, tuple[JobInfo, ...]]
"""By name; several jobs may bear one name, the lowest id first."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    count: int
    state: str
    gres: str
    cpus: str  # "8", or "8+" where nodes differ
    mem_mb: str
    features: tuple[str, ...] | None = None  # None: this client does not tell


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    name: str
    up: bool
    limit_min: int | None  # None = infinite
    groups: tuple[NodeGroup, ...]


@dataclass(frozen=True, slots=True)
class ReservationInfo:
    name: str
    starts_at: float | None
    ends_at: float | None
    nodes: str
    partition: str
    flags: str
    node_count: int | None = None


@dataclass(frozen=True, slots=True)
class UsageInfo:
    """The usage that accounting recorded of one job."""

    job_id: int
    state: str
    exit_code: str
    elapsed_s: int
    nodes: str


class SlurmClient(Protocol):
    """The verbs that each client has come first; then the capabilities, which may raise NotOffered. Every verb raises
    NoAnswer when Slurm was not heard; what else it raises is said here."""

    def submit(self, script: str, spec: JobSpec) -> int:
        """Submit a job and return its id. Raise Rejected when Slurm refuses it.

        After NoAnswer the job may exist all the same: only a successful listing tells.
        """

    def jobs(self) -> Jobs:
        """List all jobs of this user that Slurm still knows, the ended ones too. No jobs is an empty dict."""

    def cancel(self, job_ids: list[int]) -> None:
        """Cancel jobs. One that has ended already is no error.

        Raise Rejected when Slurm refuses one of them; the others are cancelled all the same.
        """

    def partitions(self) -> dict[str, PartitionInfo]: ...

    def reservations(self) -> dict[str, ReservationInfo]: ...

    # Capabilities.

    def accounts(self) -> dict[str, list[str]]:
        """List the accounts that this user may use, with their QOS, from accounting."""

    def estimate_start(self, spec: JobSpec) -> float:
        """Return when such a job would start, in UNIX seconds. Raise Rejected when Slurm would refuse it."""

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        """Return the usage of jobs from accounting. A job that it does not know is left out."""

    def log_tail(self, path: str, max_bytes: int) -> str:
        """Return the end of a job's log; "" when there is none yet."""

    def forget(self, secret_path: str) -> None:
        """Remove a pilot's secret file; one that is gone already is no error."""
