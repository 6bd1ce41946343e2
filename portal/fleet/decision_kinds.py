"""The kinds of decision rows, by what they are about. Plain Python.

Separate from the table, so that the policies, which know no Django, name them as it does. Values are what the table
holds and what pages and API are asked for.
"""

from __future__ import annotations

from enum import StrEnum


class DecisionKind(StrEnum):
    """The kind of a decision: what the loop decided, what befell the fleet without it, and commands that
    move nothing."""

    # Decided by the policies, or by a person's command in their place.
    LAUNCH = "launch"
    PLACE = "place"
    WAKE_REPLICA = "wake_replica"
    DRAIN_REPLICA = "drain_replica"
    STAGE = "stage"
    DRAIN_PILOT = "drain_pilot"
    CANCEL = "cancel"
    HOLD = "hold"
    HOLD_PROFILE = "hold_profile"
    # What follows from what was observed.
    CANCEL_UNKNOWN = "cancel_unknown"
    CANCEL_REFUSED = "cancel_refused"
    EXCLUDE_NODE = "exclude_node"
    READMIT_NODE = "readmit_node"
    RESUBMIT = "resubmit"
    ENDED = "ended"
    SILENT = "silent"
    HEARD_AGAIN = "heard_again"
    SLURM_SILENT = "slurm_silent"
    SLURM_ANSWERS = "slurm_answers"
    # By the loop and by command.
    ADOPT = "adopt"
    PAUSE = "pause"
    # By command only.
    REJECT = "reject"
    PIN = "pin"
    UNPIN = "unpin"
    WAKE = "wake"
    RESUME = "resume"
    RELAUNCH = "relaunch"
    TEST_LAUNCH = "test_launch"
