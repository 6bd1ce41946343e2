"""Exit codes of the agent: which ones end the job, and which make the supervisor start it again."""

from __future__ import annotations

DONE = 0  # drained, walltime, preempted, portal silent, or the portal says that the pilot has ended
CONFIG = 78  # settings or secret file unusable: starting again would not help
LOST = 79  # another job, or another agent, is this pilot: the compare-and-set of `register` said so
REFUSED = 80  # the portal does not accept our token
SILENT = 81  # the portal could not be reached to register
RESTARTED_JOB = 82  # Slurm ran the script a second time; Berth never wants that
UNREACHED = 83  # the portal cannot reach the ingress
CANNOT_SERVE = 84  # the job is not what was asked for, or the node lacks what the profile says

FINAL = frozenset({DONE, CONFIG, LOST, REFUSED, SILENT, RESTARTED_JOB, UNREACHED, CANNOT_SERVE})


class JobOver(Exception):
    """The agent ends with this exit code, and the job with it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class CannotServe(JobOver):
    """The agent cannot serve in this job, now or later; the portal is told why before the job ends.

    `why` is a sentence without its end: what is wrong, and what to do. It stands in the pilot's row and on pages.
    """

    def __init__(self, why: str, code: int = CANNOT_SERVE) -> None:
        super().__init__(code, why)
