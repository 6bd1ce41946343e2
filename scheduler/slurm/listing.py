"""The text that Slurm's commands print, as the protocol's values; anything else is no answer. Pure.

Records begin with one control character and fields are parted by another, because job names and reasons
may hold spaces, bars, commas and even newlines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from scheduler.slurm.protocol import (
    JobInfo,
    Jobs,
    NoAnswer,
    NodeGroup,
    PartitionInfo,
    ReservationInfo,
    UsageInfo,
)

RECORD, FIELD = "\x1e", "\x1f"
# id, state, partition, submitted, started, ends, nodes, reason, count of nodes, name
SQUEUE_FORMAT = RECORD + FIELD.join(["%i", "%T", "%P", "%V", "%S", "%e", "%N", "%r", "%D", "%j"])
# partition, available, limit, nodes, state, gres, cpus, memory, features
SINFO_FORMAT = RECORD + FIELD.join(["%R", "%a", "%l", "%D", "%T", "%G", "%c", "%m", "%f"])


def jobs(text: str) -> Jobs:
    """Parse the listing of jobs. Raise NoAnswer on text that is no listing."""
    found: dict[str, list[JobInfo]] = {}
    for fields in _records(text, 10, "squeue"):
        number = re.match(r"[0-9]+", fields[0])  # 12_[3-4] and 12+0 are arrays and hets of other programs
        if number is None or re.fullmatch(r"[A-Z_]+", fields[1]) is None:
            raise NoAnswer(f"squeue: not a job: {fields[0]!r} {fields[1]!r}")
        info = JobInfo(
            job_id=int(number.group()),
            name=fields[9],
            state=fields[1],
            reason=fields[7],
            partition=fields[2],
            nodes=fields[6],
            submitted_at=moment(fields[3]),
            started_at=moment(fields[4]),
            ends_at=moment(fields[5]),
            node_count=int(fields[8]) if fields[8].isdigit() else None,
        )
        found.setdefault(info.name, []).append(info)
    return {name: tuple(sorted(infos, key=lambda info: info.job_id)) for name, infos in found.items()}


def partitions(text: str) -> dict[str, PartitionInfo]:
    """Make one value per partition of one line per partition and kind of node."""
    found: dict[str, PartitionInfo] = {}
    for name, available, limit, count, state, gres, cpus, mem_mb, features in _records(text, 9, "sinfo"):
        if not count.isdigit():
            raise NoAnswer(f"sinfo: not a node count: {count!r}")
        has = tuple(filter(None, _known(features).split(",")))
        group = NodeGroup(int(count), state, "" if gres == "(null)" else gres, cpus, mem_mb, has)
        known = found.get(name)
        groups = (*known.groups, group) if known else (group,)
        found[name] = PartitionInfo(name, available == "up", _minutes(limit), groups)
    return found


def reservations(text: str) -> dict[str, ReservationInfo]:
    """Parse the output of `scontrol -o show reservation`."""
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("No reservations"):
            continue
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "ReservationName" not in fields:
            raise NoAnswer(f"scontrol: not a reservation: {line[:200]!r}")
        found[fields["ReservationName"]] = ReservationInfo(
            name=fields["ReservationName"],
            starts_at=moment(fields.get("StartTime", "")),
            ends_at=moment(fields.get("EndTime", "")),
            nodes=_known(fields.get("Nodes", "")),
            partition=_known(fields.get("PartitionName", "")),
            flags=fields.get("Flags", ""),
            node_count=int(fields["NodeCnt"]) if fields.get("NodeCnt", "").isdigit() else None,
        )
    return found


def usage(text: str) -> dict[int, UsageInfo]:
    """Parse the output of `sacct -n -P -X -o JobIDRaw,State,ExitCode,ElapsedRaw,NodeList`.

    A row that is odd (a job that was refused, one of an array) tells nothing of its own job and spoils nobody
    else's; text without one row is no answer.
    """
    found = {}
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines:
        fields = line.split("|")
        if len(fields) != 5 or not fields[0].isdigit() or not fields[1]:
            continue
        job_id, elapsed_s = int(fields[0]), int(fields[3]) if fields[3].isdigit() else 0
        state = fields[1].split()[0]  # "CANCELLED by 1000"
        found[job_id] = UsageInfo(job_id, state, fields[2], elapsed_s, _known(fields[4]))
    if lines and not any(line.count("|") == 4 for line in lines):
        raise NoAnswer(f"sacct: not a job: {lines[0][:200]!r}")
    return found


def accounts(text: str) -> dict[str, list[str]]:
    """Parse the output of `sacctmgr -n -P show associations … format=Account,QOS`: a line per account,
    cluster and partition."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        account, separator, qos = line.partition("|")
        if not account or not separator:
            raise NoAnswer(f"sacctmgr: not an association: {line[:200]!r}")
        found.setdefault(account, set()).update(filter(None, qos.split(",")))
    return {account: sorted(qos) for account, qos in sorted(found.items())}


def moment(text: str) -> float | None:
    """Return Slurm's time in UTC as UNIX seconds; None for N/A, Unknown, NONE and the like."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _records(text: str, width: int, command: str) -> Iterator[list[str]]:
    head, *records = text.split(RECORD)
    if head.strip():
        raise NoAnswer(f"{command}: not a listing: {head.strip()[:200]!r}")
    for record in records:
        fields = record.removesuffix("\n").split(FIELD)
        if len(fields) != width:
            raise NoAnswer(f"{command}: not a record: {record[:200]!r}")
        yield fields


def _minutes(text: str) -> int | None:
    """Read [days-]hours:minutes:seconds, minutes:seconds, or "infinite", as minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, _seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes


def _known(text: str) -> str:
    return "" if text in ("(null)", "None", "None assigned") else text
