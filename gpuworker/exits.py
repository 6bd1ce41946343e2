"""Exit codes of the agent: which ones end the job, and which make the supervisor start it again."""

from __future__ import annotations

DONE = 0  # drained, walltime, preempted, portal silent, or the portal says that the pilot has ended
CONFIG = 78  # settings or secret file unusable: starting again would not help
LOST = 79  # another job, or another agent, is this pilot: the compare-and-set of `register` said so
REFUSED = 80  # the portal does not accept our token
SILENT = 81  # the portal could not be reached to register
UNFIT = 83  # the job has not what it asked for, so it cannot serve; the portal has heard why
RESTARTED_JOB = 82  # Slurm ran the script a second time; Berth never wants that
UNLINKED = 84  # link: reverse, and the portal takes no link though it answers: nothing could be served here
UNREACHED = 85  # the portal does not reach the ingress; it has heard so, too

FINAL = frozenset({DONE, CONFIG, LOST, REFUSED, SILENT, RESTARTED_JOB, UNFIT, UNLINKED, UNREACHED})


class JobOver(Exception):
    """The agent ends with this exit code, and the job with it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class CannotServe(Exception):
    """The agent cannot serve in this job, now or later; the portal is told why before the job ends with this code."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
