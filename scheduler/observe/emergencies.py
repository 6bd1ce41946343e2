"""A job that lives, as Slurm lists it, and its agent's silence → a drain or a cancellation that cannot wait. Pure.

Separate from the judgement of ends (`scheduler.observe.verdicts`), because here the job still runs: the answer is a
decision with a reason, carried out and recorded like those of the policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from portal.fleet.states import ON_ITS_WAY, ON_NODES, PilotState
from scheduler.policy.decisions import CancelPilot, DrainPilot, Inputs
from scheduler.slurm.protocol import JobInfo

# An end that moved by less is Slurm's rounding.
_MOVED_S = 30.0
# An end that moved, but lies further ahead than this, is the hand-over's business, not an emergency.
_NEAR_S = 900.0


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A live pilot's row beside its job in the new listing. Times are UNIX seconds."""

    pilot: str
    state: str
    registered: bool
    ends_at: float | None  # as the listing before this one said
    job: JobInfo
    silent_s: float  # it could have been heard for so long, and was not
    portal_url: str = ""  # where it was told that the portal is


@dataclass(frozen=True, slots=True)
class Allowance:
    """The times for which agents may be silent, in seconds: before their first word, and later."""

    register_s: float
    silent_cancel_s: float


def emergency(live: LiveJob, allowance: Allowance, now: float) -> DrainPilot | CancelPilot | None:
    """Return what has to happen at once to a job that Slurm says is RUNNING; None where nothing has.

    1. Its agent never spoke for register_s → cancelled; that counts as a failed start.
    2. Its agent fell silent for silent_cancel_s → cancelled: it holds GPUs that serve nobody.
    3. Slurm moved its end earlier, and near → drained: preemption with a GraceTime shows in nothing else, the
       signal of that moment goes to job steps and never to the batch script.
    """
    job = live.job
    if job.state != "RUNNING":
        return None
    inputs: Inputs = {"job": job.job_id, "node": job.nodes, "silent_s": round(live.silent_s, 1)}
    # 1.
    if live.state in ON_ITS_WAY and not live.registered and live.silent_s >= allowance.register_s:
        reason = (
            f"Its job has run on {job.nodes} for {live.silent_s:.0f} s, and its agent has not said a word. "
            f"{_dialled(live.portal_url)}"
        )
        return CancelPilot(pilot=live.pilot, failed=True, reason=reason, inputs=inputs)
    # 2.
    if live.state in ON_NODES and live.silent_s >= allowance.silent_cancel_s:
        reason = f"Its agent on {job.nodes} has been silent for {live.silent_s:.0f} s: the job is given up."
        return CancelPilot(pilot=live.pilot, failed=True, reason=reason, inputs=inputs)
    # 3.
    if live.state == PilotState.UP and job.ends_at is not None and live.ends_at is not None:
        earlier_s, left_s = live.ends_at - job.ends_at, job.ends_at - now
        if earlier_s >= _MOVED_S and left_s <= _NEAR_S:
            reason = (
                f"Slurm wants its GPUs back: it moved the job's end, which now lies {max(0.0, left_s):.0f} s ahead. "
                "What runs is finished or goes back to the queue."
            )
            inputs = {"job": job.job_id, "left_s": round(left_s, 1), "earlier_s": round(earlier_s, 1)}
            return DrainPilot(pilot=live.pilot, reason=reason, inputs=inputs)
    return None


def _dialled(portal_url: str) -> str:
    """Return what a site that is being set up has to look at first."""
    host = urlsplit(portal_url).hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return (
            f"Nodes were told that the portal is at {portal_url}, which is each node itself: set BERTH_PORTAL_URL, or "
            "the profile's portal_url_from_nodes, to an address of the portal that nodes reach."
        )
    return f"Nodes have to reach the portal at {portal_url}; the job's log says what hindered it."
