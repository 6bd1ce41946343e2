"""The JSON of slurmrestd v0.0.40 and v0.0.42 → the protocol's values; anything else is no answer. Pure.

Numbers are {set, infinite, number}, states are lists of a base state and flags. Separate from the client, as the text
of Slurm's commands is (`listing`), so that each shape can be tested without a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scheduler.slurm.protocol import (
    JobInfo,
    Jobs,
    NoAnswer,
    NodeGroup,
    PartitionInfo,
    ReservationInfo,
    UsageInfo,
)

Data = dict[str, Any]

# Of a job's state the flags count first, in this order, as squeue prints them.
_FLAGS = (
    "COMPLETING",
    "STAGE_OUT",
    "CONFIGURING",
    "RESIZING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "STOPPED",
    "REVOKED",
    "RESV_DEL_HOLD",
    "SIGNALING",
    "POWER_UP_NODE",
)


def jobs(data: Data, user: str) -> Jobs:
    """Return the jobs of `user` by name. Raises NoAnswer where one cannot be read, or may be ours and names no user."""
    found: dict[str, list[JobInfo]] = {}
    for row in _rows(data, "jobs"):
        owner = row.get("user_name")
        if owner != user:
            # A server that cannot look up a number says nothing of the owner; our own jobs must not look absent then.
            if not owner and str(row.get("name", "")).startswith("berth-"):
                raise NoAnswer(f"slurmrestd does not name the user of job {row.get('job_id')}")
            continue
        info = _job(row)
        found.setdefault(info.name, []).append(info)
    return {name: tuple(sorted(infos, key=lambda info: info.job_id)) for name, infos in found.items()}


def is_of(data: Data, job_id: int, user: str) -> bool:
    """Return whether a job is there and is the user's."""
    return any(row.get("job_id") == job_id and row.get("user_name") == user for row in _rows(data, "jobs"))


def unchanged(data: Data) -> bool:
    """Return whether a listing says that no job has changed since the time that was asked for: it is empty, bears no time
    of its own, and says so."""
    said = [row.get("description") for row in data.get("warnings") or () if isinstance(row, dict)]
    return (
        data.get("jobs") == []
        and not listed_at(data)
        and any(str(text).startswith("No job changes") for text in said)
    )


def listed_at(data: Data) -> int:
    """Return when the jobs of a listing last changed, in UNIX seconds; 0 where it does not say. A listing of no jobs says
    it, too."""
    return number(data.get("last_update")) or 0


@dataclass(frozen=True, slots=True)
class NotCancelled:
    """A job that was not cancelled, with Slurm's error number and words."""

    job: str
    code: int
    words: str


def not_cancelled(data: Data, *, listed: bool) -> list[NotCancelled]:
    """Return the jobs that were not cancelled: neither the HTTP status nor the list of errors tells of them. `listed`:
    the answer must have that list."""
    found = []
    for row in _rows(data, "status") if listed or "status" in data else ():
        error = row.get("error")
        code = number(error.get("code")) if isinstance(error, dict) else None
        if code and isinstance(error, dict):
            words = _text(error.get("message")) or _text(error.get("string"))
            found.append(NotCancelled(_text(row.get("step_id")), code, words))
    return found


def partitions(data: Data, nodes: Data) -> dict[str, PartitionInfo]:
    """Return the partitions, each with its nodes grouped by what they have and how they are."""
    groups: dict[str, dict[tuple[str, str, str, str, tuple[str, ...]], int]] = {}
    for node in _rows(nodes, "nodes"):
        kind = (
            node_state(_words(node.get("state"))),
            _text(node.get("gres")),
            str(number(node.get("cpus")) or 0),
            str(number(node.get("real_memory")) or 0),
            tuple(_words(node.get("features"))),
        )
        for name in _words(node.get("partitions")):
            counts = groups.setdefault(name, {})
            counts[kind] = counts.get(kind, 0) + 1
    found = {}
    for row in _rows(data, "partitions"):
        name = _name(row, "name")
        state = row.get("partition")
        limit = row.get("maximums")
        found[name] = PartitionInfo(
            name,
            "UP" in _words(state.get("state") if isinstance(state, dict) else None),
            number(limit.get("time")) if isinstance(limit, dict) else None,
            tuple(NodeGroup(count, *kind) for kind, count in sorted(groups.get(name, {}).items())),
        )
    return found


def reservations(data: Data) -> dict[str, ReservationInfo]:
    """Return the reservations by name."""
    found = {}
    for row in _rows(data, "reservations"):
        name = _name(row, "name")
        found[name] = ReservationInfo(
            name=name,
            starts_at=_moment(row.get("start_time")),
            ends_at=_moment(row.get("end_time")),
            nodes=_text(row.get("node_list")),
            partition=_text(row.get("partition")),
            flags=",".join(_words(row.get("flags"))),
            node_count=number(row.get("node_count")),
        )
    return found


def usage(data: Data) -> dict[int, UsageInfo]:
    """Return what accounting recorded; rows that cannot be read are left out, as sacct's are."""
    found = {}
    for row in _rows(data, "jobs"):
        job_id, state, time = row.get("job_id"), row.get("state"), row.get("time")
        if not isinstance(job_id, int) or not isinstance(state, dict) or not isinstance(time, dict):
            continue
        words = _words(state.get("current"))
        found[job_id] = UsageInfo(
            job_id,
            words[0] if words else "",
            _exit_code(row.get("exit_code")),
            number(time.get("elapsed")) or 0,
            _text(row.get("nodes")),
        )
    return found


def accounts(data: Data) -> dict[str, list[str]]:
    """Return the accounts with their QOS, gathered over clusters and partitions."""
    found: dict[str, set[str]] = {}
    for row in _rows(data, "associations"):
        found.setdefault(_name(row, "account"), set()).update(_words(row.get("qos")))
    return {account: sorted(qos) for account, qos in sorted(found.items())}


def number(value: Any) -> int | None:
    """Return a number that may be wrapped; None where it is not set, infinite, or none at all."""
    if isinstance(value, dict):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _job(row: Data) -> JobInfo:
    job_id, words = row.get("job_id"), _words(row.get("job_state"))
    if not isinstance(job_id, int) or not words:
        raise NoAnswer(f"slurmrestd: not a job: {job_id!r} {words!r}")
    flags = [flag for flag in _FLAGS if flag in words]
    return JobInfo(
        job_id=job_id,
        name=_text(row.get("name")),
        state=flags[0] if flags else words[0],
        reason=_text(row.get("state_description")) or _text(row.get("state_reason")) or "None",
        partition=_text(row.get("partition")),
        nodes=_text(row.get("nodes")),
        submitted_at=_moment(row.get("submit_time")),
        started_at=_moment(row.get("start_time")),
        ends_at=_moment(row.get("end_time")),
        node_count=number(row.get("node_count")) or None,
    )


def node_state(words: list[str]) -> str:
    """Return a node's state as sinfo spells it."""
    base = words[0].lower() if words else "unknown"
    if "DRAIN" in words:
        base = "draining" if base in ("allocated", "mixed") or "COMPLETING" in words else "drained"
    elif "MAINTENANCE" in words:
        base = "maint"
    elif "RESERVED" in words:
        base = "reserved"
    elif "COMPLETING" in words:
        base = "completing"
    return base + ("*" if "NOT_RESPONDING" in words else "")


def _exit_code(value: Any) -> str:
    """Return "code:signal", as sacct writes it."""
    if not isinstance(value, dict):
        return ""
    signal = value.get("signal")
    killed = number(signal.get("id")) if isinstance(signal, dict) else None
    return f"{number(value.get('return_code')) or 0}:{killed or 0}"


def _rows(data: Data, key: str) -> Iterable[Data]:
    rows = data.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise NoAnswer(f"slurmrestd: the answer has no list of {key}")
    return rows


def _name(row: Data, key: str) -> str:
    name = row.get(key)
    if not isinstance(name, str) or not name:
        raise NoAnswer(f"slurmrestd: a row has no {key}: {str(row)[:200]}")
    return name


def _words(value: Any) -> list[str]:
    """Return a list of words that some versions write as one text with commas."""
    if isinstance(value, str):
        return [word for word in value.split(",") if word]
    return [str(word) for word in value] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _moment(value: Any) -> float | None:
    """Return UNIX seconds; 0 is Slurm's "not known"."""
    seconds = number(value)
    return float(seconds) if seconds else None
