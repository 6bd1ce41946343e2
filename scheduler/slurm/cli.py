"""The Slurm client that runs Slurm's own commands: sbatch, squeue, scancel, sinfo, scontrol, sacct.

Works with every release and needs no library, which is why it is the one that every site starts with.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from shlex import quote

from scheduler.slurm import errors, listing, shell
from scheduler.slurm.protocol import (
    Jobs,
    NoAnswer,
    NotOffered,
    PartitionInfo,
    Rejected,
    ReservationInfo,
    UsageInfo,
)
from scheduler.slurm.render import check, render
from scheduler.slurm.shell import Answer, here_document
from scheduler.slurm.spec import JobSpec

_REFUSAL = re.compile(r"submission failed: (?P<reason>.+)|allocation failure: (?P<test>.+)")
# scancel goes on to the next job after such a line.
_NOT_KILLED = re.compile(r"kill job error on job id|" + errors.REFUSALS, re.I)
# What sacct and sacctmgr say where the site has no accounting: nobody is to be waited for.
_NO_ACCOUNTING = re.compile(
    r"accounting storage is disabled|not running a supported accounting_storage", re.I
)


class CliClient:
    """See SlurmClient. `prefix` and `conf` as in Way, e.g. ("ssh", "login01") and "/etc/slurm/slurm.conf"."""

    def __init__(self, prefix: tuple[str, ...] = (), *, conf: str = "", limit_s: float = 20.0) -> None:
        self._prefix = prefix
        self._conf = f"SLURM_CONF={quote(conf)}\nexport SLURM_CONF\n" if conf else ""
        self._limit_s = limit_s
        self._export = ""

    def submit(self, script: str, spec: JobSpec) -> int:
        check(spec)  # the name and the paths below are part of a shell program
        program = (
            f"umask 077\n{_write_secret(spec)}{_make_folder(spec.log_path)}"
            f"{shell.CLEAN} sbatch --parsable --no-requeue --export={self._export_word()}"
            f" --job-name={quote(spec.name)} {here_document(script)}"
        )
        answer = self._run(program, "sbatch")
        if answer.code != 0:
            raise _refused(answer, "sbatch")
        number = re.fullmatch(r"\s*([0-9]+)(;\S+)?\s*", answer.out)
        if number is None:
            raise NoAnswer(f"sbatch: not a job id: {answer.said}")
        return int(number.group(1))

    def jobs(self) -> Jobs:
        words = f"squeue --me -a -h -t all -o {quote(listing.SQUEUE_FORMAT)}"
        return listing.jobs(self._ask(words, "squeue"))

    def cancel(self, job_ids: list[int]) -> None:
        if not job_ids:
            return
        answer = self._run(f"{shell.CLEAN} scancel {_ids(job_ids, ' ')}", "scancel")
        # An id that Slurm has forgotten is one that needs no cancelling.
        lines = [line for line in answer.err.splitlines() if not errors.gone(line)]
        if answer.code == 0 or (answer.err and not lines):
            return
        # A log-in node may greet on stderr, and ssh says "Permission denied" of its own: only scancel's words count.
        said = [line.partition(": ")[2] for line in lines if line.startswith("scancel: ")]
        refusals = [text.removeprefix("error: ") for text in said if _NOT_KILLED.search(text)]
        if not refusals or any(map(errors.unheard, said)):
            raise NoAnswer(f"scancel: {answer.said}")
        raise Rejected("; ".join(refusals)[:500])

    def partitions(self) -> dict[str, PartitionInfo]:
        return listing.partitions(self._ask(f"sinfo -h -a -o {quote(listing.SINFO_FORMAT)}", "sinfo"))

    def reservations(self) -> dict[str, ReservationInfo]:
        return listing.reservations(self._ask("scontrol -a -o show reservation", "scontrol"))

    def accounts(self) -> dict[str, list[str]]:
        words = 'sacctmgr -n -P show associations where user="$(id -un)" format=Account,QOS'
        return listing.accounts(self._ask_accounting(words, "sacctmgr"))

    def estimate_start(self, spec: JobSpec) -> float:
        words = f"sbatch --test-only --export={self._export_word()} --job-name={quote(spec.name)}"
        answer = self._run(f"{shell.CLEAN} {words} {here_document(render(spec))}", "sbatch --test-only")
        found = re.search(r"to start at (\S+)", answer.err + answer.out)
        starts_at = listing.moment(found.group(1)) if found else None
        if starts_at is None:
            raise _refused(answer, "sbatch --test-only")
        return starts_at

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        if not job_ids:
            return {}
        words = f"sacct -n -P -X -j {_ids(job_ids, ',')} -o JobIDRaw,State,ExitCode,ElapsedRaw,NodeList"
        return listing.usage(self._ask_accounting(words, "sacct"))

    def log_tail(self, path: str, max_bytes: int) -> str:
        program = f"if [ -e {quote(path)} ]; then tail -c {int(max_bytes)} -- {quote(path)}; fi"
        answer = self._run(program, "tail")
        if answer.code != 0:
            raise NoAnswer(f"tail: {answer.said}")
        return answer.out

    def forget(self, secret_path: str) -> None:
        answer = self._run(f"rm -f -- {quote(secret_path)}", "rm")
        if answer.code != 0:
            raise NoAnswer(f"rm: {answer.said}")

    def _ask_accounting(self, words: str, command: str) -> str:
        answer = self._run(f"{shell.CLEAN} {words}", command)
        if _NO_ACCOUNTING.search(answer.err + answer.out):
            raise NotOffered(f"{command}: {answer.said}")
        return self._heard(answer, command)

    def _ask(self, words: str, command: str) -> str:
        return self._heard(self._run(f"{shell.CLEAN} {words}", command), command)

    def _heard(self, answer: Answer, command: str) -> str:
        # Some failures end with code 0 and nothing on stdout: that is not "no jobs".
        if answer.code != 0 or (not answer.out.strip() and "error" in answer.err.lower()):
            raise NoAnswer(f"{command}: {answer.said}")
        return answer.out

    def _run(self, program: str, what: str) -> Answer:
        return shell.run(self._prefix, self._conf + program, limit_s=self._limit_s, what=what)

    def _export_word(self) -> str:
        """Return the value of --export: NIL from 23.02 on.

        Before, every value but ALL runs the user's log-in shell on the node first, which takes seconds or
        fails; and ALL of an emptied environment is nothing. See docs/decisions/0005.
        """
        if not self._export:
            said = self._ask("sbatch --version", "sbatch")
            release = re.search(r"(\d+)\.(\d+)", said)
            if release is None:
                raise NoAnswer(f"sbatch --version: {said.strip()[:200]!r}")
            self._export = "NIL" if (int(release.group(1)), int(release.group(2))) >= (23, 2) else "ALL"
        return self._export


def _write_secret(spec: JobSpec) -> str:
    path = spec.secret.path
    # Renamed into place, so that a job that starts at once never reads half a file.
    return (
        f"{_make_folder(path)}"
        f"cat > {quote(path + '.new')} {here_document(spec.secret.text)}"
        f"mv -f {quote(path + '.new')} {quote(path)} || exit 1\n"
    )


def _make_folder(path: str) -> str:
    return f"mkdir -p {quote(str(PurePosixPath(path).parent))} || exit 1\n"


def _refused(answer: Answer, command: str) -> Rejected | NoAnswer:
    """Tell which of the two a failed sbatch is. In doubt it is silence: the next listing then decides."""
    reason = _REFUSAL.search(answer.err)
    # A refused --test-only says "allocation failure" and no more; what else is said bears the word "error".
    if reason is None and "error:" not in answer.err:
        return NoAnswer(f"{command}: {answer.said}")
    text = (reason.group("reason") or reason.group("test")).strip() if reason else answer.said
    if errors.unheard(text):
        return NoAnswer(f"{command}: {answer.said}")
    return Rejected(text if reason else text.removeprefix(f"{command}: error: "))


def _ids(job_ids: list[int], separator: str) -> str:
    return separator.join(str(int(job_id)) for job_id in job_ids)
