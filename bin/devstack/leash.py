"""Turns the death of the program that started services into the end of those services.

A separate small process because kill -9 leaves nobody else to clean up, and because Slurm's job steps leave
their parent on purpose, so that the kernel's parent-death signal does not reach them. It reads lines of JSON
from its owner's pipe (`watch` a service folder, `forget` it); at end of file the owner is gone, and it ends
what is still watched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from devstack import proctable


def end_recorded(pid_dir: Path, mark_prefix: str) -> None:
    """End the processes recorded in a folder of pid records, the newest first, and remove the records."""
    for path, record in sorted(_records(pid_dir), key=lambda pair: -int(pair[1]["ticks"])):
        if str(record["mark"]).startswith(mark_prefix):
            proctable.end(
                int(record["pid"]), int(record["ticks"]), int(record["signal"]), float(record["grace_s"])
            )
            path.unlink(missing_ok=True)


def mounts_of_recorded(pid_dir: Path, mark_prefix: str) -> proctable.Mounts:
    """Return the mounts that recorded processes have for themselves, for as long as they are still there to ask."""
    ours = [record for _, record in _records(pid_dir) if str(record["mark"]).startswith(mark_prefix)]
    alive = [r for r in ours if proctable.start_ticks(int(r["pid"])) == int(r["ticks"])]
    # Not those that whoever started them was in: a person may be in there, too.
    outside = {int(record.get("mounts", 0)) for record in ours}
    return proctable.Mounts((int(record["pid"]) for record in alive), outside)


def _records(pid_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return what a folder of pid records holds; those that nobody can read are removed."""
    records = []
    for path in pid_dir.glob("*.json"):
        try:
            records.append((path, json.loads(path.read_text())))
        except (OSError, ValueError):
            path.unlink(missing_ok=True)
    return records


def leftovers(mark: str, slurm_conf: str) -> set[int]:
    """Find processes of a run (or, with a mark that ends in "#", of any run in a folder) and of its
    cluster's jobs."""
    marked = proctable.with_environment(proctable.MARK, mark, prefix=mark.endswith("#"))
    if not slurm_conf:
        return marked
    return marked | proctable.of_jobs(slurm_conf) | proctable.keepers(str(Path(slurm_conf).parent))


def end_all(pid_dir: Path, mark: str, slurm_conf: str) -> None:
    """End what is recorded, then whatever else is left of the run (or, with a mark that ends in "#", of any run)."""
    mounts = mounts_of_recorded(pid_dir, mark)
    try:
        end_recorded(pid_dir, mark)
        proctable.sweep(lambda: leftovers(mark, slurm_conf) | mounts.processes())
    finally:
        mounts.close()


def clean(pid_dir: Path, mark: str, slurm_conf: str, remove: list[str]) -> None:
    end_all(pid_dir, mark, slurm_conf)
    for folder in remove:
        shutil.rmtree(folder, ignore_errors=True)


class Leash:
    """The owner's end: one leash per process, started with the first service."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def _pipe(self) -> IO[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()
            package_root = str(Path(__file__).resolve().parent.parent)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "devstack.leash"],
                stdin=subprocess.PIPE,
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": package_root},
                start_new_session=True,
            )
        pipe = self._process.stdin
        assert pipe is not None
        return pipe

    def _tell(self, message: dict[str, object]) -> None:
        pipe = self._pipe()
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()

    def watch(self, pid_dir: Path, mark: str, slurm_conf: str, remove: list[str]) -> None:
        self._tell(
            {"do": "watch", "pid_dir": str(pid_dir), "mark": mark, "slurm_conf": slurm_conf, "remove": remove}
        )

    def forget(self, mark: str) -> None:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            self._tell({"do": "forget", "mark": mark})

    def close_if_idle(self, watched: int) -> None:
        """End the leash process once its owner runs nothing."""
        if watched == 0 and self._process is not None and self._owner == os.getpid():
            pipe = self._process.stdin
            if pipe is not None:
                pipe.close()
            self._process.wait(timeout=30)
            self._process = None


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[str, Any] = {}
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if message["do"] == "watch":
            watched[message["mark"]] = message
        else:
            watched.pop(message["mark"], None)
    for mark, message in reversed(watched.items()):
        clean(Path(message["pid_dir"]), mark, message["slurm_conf"], message["remove"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
