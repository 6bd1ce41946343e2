"""Slurm's state and reason of a job, as a sentence for a scientist and as what it means for the loop. Pure.

Separate from the Slurm clients, because each reports the same codes; in the portal, because pages and waiting
clients show the sentences and the control loop acts on what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["waiting", "running", "ended", "hopeless"]

# States of a job that will not run again. Everything unknown counts as live: killing needs certainty.
_ENDED = {
    "COMPLETED": "its program ended",
    "CANCELLED": "it was cancelled",
    "FAILED": "its program failed",
    "TIMEOUT": "it reached its time limit",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "DEADLINE": "it could not finish before its deadline",
    "OUT_OF_MEMORY": "it ran out of memory",
    "PREEMPTED": "Slurm gave its GPUs to a job of higher priority",
    "REVOKED": "it was taken over by another cluster",
}
# The node could not begin with the script; some releases name signal 53, which stands for a file that was not opened.
_NOT_LAUNCHED = ("JobLaunchFailure", "RaisedSignal:53")
_NO_LAUNCH = (
    "Slurm could not begin with its script on the node; most often the folder of its output (BERTH_SPOOL/log) is not "
    "there, or its user is not known there"
)
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
# The job will wait for ever: cancel it and latch what asked for it (DESIGN §6).
_HOPELESS = {
    "BadConstraints": "no node can ever fit what it asks for",
    "PartitionTimeLimit": "it asks for more time than its partition allows",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows",
    "DependencyNeverSatisfied": "it depends on a job that can no longer finish",
    "JobHeldUser": "it was held by its user",
    "JobHeldAdmin": "it was held by an administrator",
    "JobHoldMaxRequeue": "it was requeued too often",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "AccountNotAllowed": "its account may not use this partition",
    "QOSNotAllowed": "its QOS may not be used here",
}
_WAITING = {
    "None": "Slurm has not looked at it yet",
    "Priority": "other jobs are ahead of it",
    "Resources": "it is next, and waits for GPUs to become free",
    "BeginTime": "its start time lies ahead",
    "Licenses": "it waits for a licence",
    "Reservation": "it waits for its reservation",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is not active",
    "ReqNodeNotAvail": "the nodes it needs are reserved or down",
    # Where partitions have priorities, Slurm says this in a sentence of its own.
    "Nodes required for job are DOWN": "the nodes it needs are down, drained or kept for jobs of higher priority",
    "NodeDown": "a node that it needs is down",
    "JobArrayTaskLimit": "too many tasks of its array run already",
    "Prolog": "its node is being prepared",
    "Cleaning": "its last run is being cleaned up",
}
# What Slurm says of a job that it would refuse tomorrow, too: the words of `scheduler.slurm.errors`, whose table a test
# compares with these. Policy refusals may be of the hour, and are not here.
_REFUSED = (
    "invalid partition",
    "no partition specified",
    "user's group not permitted",
    "requested nodes not in this partition",
    "more processors requested than permitted",
    "node count specification invalid",
    "requested node configuration is not available",
    "invalid feature specification",
    "invalid job constraint",
    "memory required by task is not available",
    "invalid account",
    "invalid license specification",
    "requested time limit is invalid",
    "time limit specification required",
    "invalid time-min",
    "access denied to requested reservation",
    "requested reservation is invalid",
    "invalid wckey",
    "invalid qos",
    "cpu count specification invalid",
    "invalid generic resource",
    "invalid trackable resource",
    "invalid gres",
    "requested gres option unsupported",
    "invalid --nice value",
)
_SHARES = ("Assoc", "QOS", "Max")


@dataclass(frozen=True, slots=True)
class Meaning:
    phase: Phase
    text: str  # completes "the job …: "


def refused_for_good(reason: str) -> bool:
    """Tell whether a job that sbatch refused for this reason would be refused again."""
    said = reason.lower()
    return any(words in said for words in _REFUSED)


def meaning(state: str, reason: str) -> Meaning:
    """Explain `state` and `reason` as squeue prints them; the reason may carry a tail after a comma."""
    code = reason.split(",")[0].strip().strip("()")
    word = state.split(" ")[0]
    if word in _ENDED:
        text = _ENDED[word]
        if code.startswith(_NOT_LAUNCHED):
            text = _NO_LAUNCH
        return Meaning("ended", text if code in ("", "None") else f"{text} ({code})")
    if word in _RUNNING:
        return Meaning("running", "it runs")
    if word == "SPECIAL_EXIT":
        return Meaning("hopeless", "it is held after a special exit")
    if code in _HOPELESS:
        return Meaning("hopeless", f"{_HOPELESS[code]} ({code})")
    if code in _WAITING:
        return Meaning("waiting", _WAITING[code])
    if code.startswith(_SHARES):
        return Meaning("waiting", f"a limit of its account or QOS is reached ({code})")
    return Meaning("waiting", f"it waits ({code or state})")
