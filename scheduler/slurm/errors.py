"""Slurm's error numbers and words → what they mean for a question that was asked.

One table for all clients: slurmrestd and pyslurm give the number, Slurm's commands print the words, and the three must
judge alike. Numbers are stable over the releases, except where a freed one was given again (2007, 2040, 2041, 2063,
2097): a row holds for every release in which its number bears its name. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Meaning = Literal["for_good", "for_now", "unheard"]


@dataclass(frozen=True, slots=True)
class Errno:
    """One error of Slurm. `words` is what `slurm_strerror` says of it, in every release that knows it."""

    number: int
    name: str
    meaning: Meaning
    words: str


# Refused for good: the same job would be refused tomorrow, too, so its profile is to blame.
_FOR_GOOD = (
    (2000, "ESLURM_INVALID_PARTITION_NAME", "Invalid partition name specified"),
    (2001, "ESLURM_DEFAULT_PARTITION_NOT_SET", "No partition specified or system default partition"),
    (2003, "ESLURM_JOB_MISSING_REQUIRED_PARTITION_GROUP", "User's group not permitted to use this partition"),
    (2004, "ESLURM_REQUESTED_NODES_NOT_IN_PARTITION", "Requested nodes not in this partition"),
    (2005, "ESLURM_TOO_MANY_REQUESTED_CPUS", "More processors requested than permitted"),
    (2006, "ESLURM_INVALID_NODE_COUNT", "Node count specification invalid"),
    (2014, "ESLURM_REQUESTED_NODE_CONFIG_UNAVAILABLE", "Requested node configuration is not available"),
    (2029, "ESLURM_INVALID_FEATURE", "Invalid feature specification"),
    (2044, "ESLURM_INVALID_TASK_MEMORY", "Memory required by task is not available"),
    (2045, "ESLURM_INVALID_ACCOUNT", "Invalid account or account/partition combination specified"),
    (2048, "ESLURM_INVALID_LICENSES", "Invalid license specification"),
    (2051, "ESLURM_INVALID_TIME_LIMIT", "Requested time limit is invalid (missing or exceeds some limit)"),
    (2052, "ESLURM_RESERVATION_ACCESS", "Access denied to requested reservation"),
    (2053, "ESLURM_RESERVATION_INVALID", "Requested reservation is invalid"),
    (2057, "ESLURM_INVALID_WCKEY", "Invalid wckey specification"),
    (2066, "ESLURM_INVALID_QOS", "Invalid qos specification"),
    (2069, "ESLURM_INVALID_CPU_COUNT", "CPU count specification invalid"),
    (2072, "ESLURM_INVALID_GRES", "Invalid generic resource (gres) specification"),
    (2115, "ESLURM_INVALID_TRES", "Invalid Trackable RESource (TRES) specification"),
    (2119, "ESLURM_INVALID_GRES_TYPE", "Invalid GRES specification (with and without type identification)"),
    (2122, "ESLURM_UNSUPPORTED_GRES", "Requested GRES option unsupported by configured SelectType plugin"),
    (2123, "ESLURM_INVALID_NICE", "Invalid --nice value"),
    (
        2124,
        "ESLURM_INVALID_TIME_MIN_LIMIT",
        "Invalid time-min specification (exceeds job's time or other limits)",
    ),
    (8000, "ESLURM_MISSING_TIME_LIMIT", "Time limit specification required, but not provided"),
)
# Refused, but perhaps not in an hour. Policy is among them: limits of jobs in the queue pass, too.
_FOR_NOW = (
    (-1, "SLURM_ERROR", "Unspecified error"),  # what a site's job_submit plugin says that gives no reason
    (2002, "ESLURM_ACCESS_DENIED", "Access/permission denied"),
    (2010, "ESLURM_USER_ID_MISSING", "Invalid user id"),
    (2015, "ESLURM_REQUESTED_PART_CONFIG_UNAVAILABLE", "Requested partition configuration not available now"),
    (2016, "ESLURM_NODES_BUSY", "Requested nodes are busy"),
    (2017, "ESLURM_INVALID_JOB_ID", "Invalid job id specified"),
    (2018, "ESLURM_INVALID_NODE_NAME", "Invalid node name specified"),
    (2019, "ESLURM_WRITING_TO_FILE", "I/O error writing script/environment to file"),
    (2021, "ESLURM_ALREADY_DONE", "Job/step already completing or completed"),
    (2037, "ESLURM_DISABLED", "Requested operation is presently disabled"),
    (
        2050,
        "ESLURM_ACCOUNTING_POLICY",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    ),
    (2055, "ESLURM_RESERVATION_BUSY", "Requested reservation is in use"),
    (2056, "ESLURM_RESERVATION_NOT_USABLE", "Requested reservation not usable now"),
    (2068, "ESLURM_NODE_NOT_AVAIL", "Required node not available (down, drained or reserved)"),
    (2070, "ESLURM_PARTITION_NOT_AVAIL", "Required partition not available (inactive or drain)"),
    (2074, "ESLURM_QOS_THRES", "Requested account has breached requested QOS usage threshold"),
    (2090, "ESLURM_INTERNAL", "Slurm internal error, contact system administrator"),
    (2101, "ESLURM_PARTITION_DOWN", "Partition in DOWN state"),
    (2105, "ESLURM_SUBMISSIONS_DISABLED", "System submissions disabled"),
    (2127, "ESLURM_ENVIRONMENT_MISSING", "Environment is missing in job"),
)
# Slurm's controller or database did not hear the question, or its answer was lost.
_UNHEARD = (
    (1000, "SLURM_UNEXPECTED_MSG_ERROR", "Unexpected message received"),
    (1001, "SLURM_COMMUNICATIONS_CONNECTION_ERROR", "Communication connection failure"),
    (1002, "SLURM_COMMUNICATIONS_SEND_ERROR", "Message send failure"),
    (1003, "SLURM_COMMUNICATIONS_RECEIVE_ERROR", "Message receive failure"),
    (1004, "SLURM_COMMUNICATIONS_SHUTDOWN_ERROR", "Communication shutdown failure"),
    (1005, "SLURM_PROTOCOL_VERSION_ERROR", "Incompatible versions of client and server code"),
    (1007, "SLURM_PROTOCOL_AUTHENTICATION_ERROR", "Protocol authentication error"),
    (1008, "SLURM_PROTOCOL_INSANE_MSG_LENGTH", "Insane message length"),
    (
        1800,
        "SLURMCTLD_COMMUNICATIONS_CONNECTION_ERROR",
        "Unable to contact slurm controller (connect failure)",
    ),
    (1801, "SLURMCTLD_COMMUNICATIONS_SEND_ERROR", "Unable to contact slurm controller (send failure)"),
    (1802, "SLURMCTLD_COMMUNICATIONS_RECEIVE_ERROR", "Unable to contact slurm controller (receive failure)"),
    (
        1803,
        "SLURMCTLD_COMMUNICATIONS_SHUTDOWN_ERROR",
        "Unable to contact slurm controller (shutdown failure)",
    ),
    (2020, "ESLURM_TRANSITION_STATE_NO_UPDATE", "Job can not be altered now, try again later"),
    (2026, "ESLURM_INVALID_JOB_CREDENTIAL", "Error generating job credential"),
    (2027, "ESLURM_IN_STANDBY_MODE", "Slurm backup controller in standby mode"),
    (2131, "ESLURM_IN_STANDBY_USE_BACKUP", "Controller is in standby mode, try a different controller"),
    (5003, "ESLURM_PROTOCOL_INCOMPLETE_PACKET", "Header lengths are longer than data received"),
    (5004, "SLURM_PROTOCOL_SOCKET_IMPL_TIMEOUT", "Socket timed out on send/recv operation"),
    (5005, "SLURM_PROTOCOL_SOCKET_ZERO_BYTES_SENT", "Zero Bytes were transmitted or received"),
    (6000, "ESLURM_AUTH_CRED_INVALID", "Invalid authentication credential"),
    (7000, "ESLURM_DB_CONNECTION", "Unable to connect to database"),
)

_BY_MEANING: tuple[tuple[Meaning, tuple[tuple[int, str, str], ...]], ...] = (
    ("for_good", _FOR_GOOD),
    ("for_now", _FOR_NOW),
    ("unheard", _UNHEARD),
)
TABLE: dict[int, Errno] = {
    number: Errno(number, name, meaning, words)
    for meaning, rows in _BY_MEANING
    for number, name, words in rows
}

UNSPECIFIED = -1  # SLURM_ERROR
# A job that has ended, or that Slurm has forgotten: for somebody who wants it ended, both are success.
GONE = frozenset({2017, 2021})
NOTHING_FOUND = 9003
# What a token that is wrong or has ended brings; 511 is slurmrestd's HTTP status for it.
TOKEN = frozenset({401, 511, 1007, 6000, 9008})
# Of numbers without a row: what slurmctld says of a job, how topology plugins refuse one (from 26.05), and what
# slurmrestd could not read in the question. The rest is transport.
_REFUSALS = (range(2000, 3000), range(7200, 7300), range(9000, 9300))

# Slurm's commands print more than these numbers' words; in doubt it is silence, and the next listing decides.
_MORE_SILENCE = (
    r"unable to contact|timed out|communication (connection|shutdown)|connection (refused|reset)|authentication"
    r"|credential|munge|temporarily un|incompatible versions|standby mode|not responding|configuration source"
    r"|unable to (open|process) config|getaddrinfo|no route to host|message (send|receive) failure"
)
_SILENCE = re.compile(
    "|".join([*(re.escape(row[2]) for row in _UNHEARD), _MORE_SILENCE]),
    re.IGNORECASE,
)

# A pattern of the words of all refusals.
REFUSALS = "|".join(re.escape(row[2]) for row in (*_FOR_GOOD, *_FOR_NOW))
# Not the whole words: scancel itself says "Invalid job id 7".
_GONE = re.compile(r"invalid job id|already completing or completed", re.IGNORECASE)


class Refusal(Exception):
    """A refusal: Slurm heard and said no, with this number; 0 where the client has none."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


def meaning(number: int) -> Meaning:
    """Return what an error number means. One without a row is a refusal for now where Slurm itself speaks of a job,
    and else was not heard."""
    row = TABLE.get(number)
    if row is not None:
        return row.meaning
    return "for_now" if any(number in refusals for refusals in _REFUSALS) else "unheard"


def words(number: int) -> str:
    """Return Slurm's words for an error number, or the number itself where the table has none."""
    row = TABLE.get(number)
    return row.words if row is not None else f"Slurm's error {number}"


def gone(text: str) -> bool:
    """Return whether words that a command printed say that there is no such job any more."""
    return _GONE.search(text) is not None


def unheard(text: str) -> bool:
    """Return whether words that a command printed say that Slurm was not heard."""
    return _SILENCE.search(text) is not None
