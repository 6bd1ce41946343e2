"""What a client without a shell on Slurm's side cannot do beforehand, and how the job does it for itself.

Slurm's commands run where a shell makes the log's folder and writes the pilot's secret file. slurmrestd and pyslurm
write no files: the secret rides in the job's environment, which Slurm shows to nobody but its administrators, and the
job script takes it out of there before anything else runs; it opens its log itself, too (decisions/0027, `pilot.sh.j2`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scheduler.slurm.protocol import NotOffered
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way

SECRET = "BERTH_SECRET"
# Slurm refuses a job with an empty environment; the script sets a PATH of its own.
_PATH = "/usr/local/bin:/usr/bin:/bin"


def without_shell(fields: dict[str, Any], spec: JobSpec) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the job's fields and its environment. slurmstepd writes to no folder that may not be there yet."""
    nowhere = {"standard_output": "/dev/null", "standard_error": "/dev/null"}
    return {**fields, **nowhere}, {"PATH": _PATH, SECRET: spec.secret.text}


def local_tail(path: str, max_bytes: int, way: Way) -> str:
    """Return the end of a log that lies where the portal sees it, too. Raises NotOffered where none does: running
    pilots send theirs themselves."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - max_bytes))
            return file.read(max_bytes).decode(errors="replace")
    except OSError:
        raise NotOffered(f"{way.said}: {path} is not on a file system of the portal's") from None
