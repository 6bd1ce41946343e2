"""Runs one small shell program where Slurm's commands live, and tells an answer from silence.

The program goes to `sh` on its standard input, so that a prefix such as `ssh login01` needs no second
quoting, and so that secrets and scripts ride in here-documents and never in a command line. Slurm's
commands start from an empty environment: a user's SQUEUE_FORMAT or SBATCH_PARTITION changes nothing.
Separate from the client, because this is the only place of portal and scheduler that starts processes.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from dataclasses import dataclass

from scheduler.slurm.protocol import NoAnswer

# Expanded where the command runs, which may be another machine than this one.
CLEAN = 'env -i PATH="$PATH" HOME="$HOME" TZ=UTC LC_ALL=C ${SLURM_CONF:+"SLURM_CONF=$SLURM_CONF"}'
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "SSH_AUTH_SOCK")
# Before the first mark and after the last one speaks whatever the prefix runs on its way: a shell that greets, a
# farewell. A cut connection or a killed command cannot fake the last mark.
_BEGIN = re.compile(r"\x1eberth-begin\r?\n")
_END = re.compile(r"\x1eberth-end ([0-9]+)\r?\n")


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Return what to show a person when this is not the answer that was wanted."""
        text = " ".join((self.err.strip() or self.out.strip() or "it said nothing").split())
        return text[:500]


def here_document(text: str) -> str:
    """Write `<<'MARK'` and the text, with a mark that is no line of the text."""
    mark = "BERTH_" + hashlib.sha256(text.encode()).hexdigest()[:24]
    return f"<<'{mark}'\n{text if text.endswith(chr(10)) else text + chr(10)}{mark}\n"


def run(prefix: tuple[str, ...], program: str, *, limit_s: float, what: str) -> Answer:
    """Run the program to its end. Raise NoAnswer when it does not get there within `limit_s`."""
    text = f"set -f\nprintf '\\036berth-begin\\n'\n{program}\nprintf '\\036berth-end %d\\n' $?\n"
    process = start(prefix, what)
    try:
        out, err = process.communicate(text.encode(), timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end_group(process)
        raise NoAnswer(f"{what}: no answer within {limit_s:g} s") from None
    except BaseException:
        _end_group(process)
        raise
    return _read(out.decode(errors="replace"), err.decode(errors="replace"), process.returncode, what)


def start(prefix: tuple[str, ...], what: str) -> subprocess.Popen[bytes]:
    """Return a shell behind the prefix that waits for its program, in a process group of its own. Raises NoAnswer."""
    try:
        return subprocess.Popen(
            [*prefix, "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={key: os.environ[key] for key in _KEPT if key in os.environ},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(f"{what}: cannot start {prefix[0] if prefix else 'sh'}: {error}") from None


def _read(out: str, err: str, shell_code: int, what: str) -> Answer:
    begin = _BEGIN.search(out)
    body = out[begin.end() :] if begin else ""
    ends = list(_END.finditer(body))
    if not ends:
        # Not even our own shell got to its end: killed, or the connection broke.
        raise NoAnswer(f"{what}: cut off ({Answer(shell_code, out, err).said})")
    code, body = int(ends[-1].group(1)), body[: ends[-1].start()]
    if code in (126, 127) or code > 128:
        raise NoAnswer(f"{what}: the command could not run ({Answer(code, body, err).said})")
    return Answer(code, body, err)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    # The pipes' far ends are gone with the group; this only reaps.
    process.communicate()
