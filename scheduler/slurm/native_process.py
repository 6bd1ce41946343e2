"""A process that answers questions line by line → an answer within the time, a refusal with its number, or silence.

Separate from the client, because a process that hangs is not a Slurm that says no: it is ended and started again after
a pause that grows, so that a Slurm that is away costs the loop one wait now and then, not one in every pass.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import threading
import time
from pathlib import Path
from shlex import quote
from typing import IO, Any

from scheduler.slurm import shell
from scheduler.slurm.errors import Refusal
from scheduler.slurm.protocol import NoAnswer, NotOffered
from scheduler.slurm.way import Way

HELPER = Path(__file__).with_name("native_helper.py")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
MAX_BYTES = 128 * 2**20
_KEPT_ERROR_BYTES = 4096

Data = dict[str, Any]


class Helper:
    """One process of `native_helper`, for one question at a time. `limit_s` bounds each, its start included."""

    def __init__(self, way: Way, limit_s: float, helper: Path = HELPER) -> None:
        self._way = way
        self._limit_s = limit_s
        self._source = helper
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._mark = b""
        self._read = b""
        self._errors = b""
        self._asked = 0
        self._failures = 0
        self._not_before = 0.0
        self._last_failure = ""

    @property
    def pid(self) -> int | None:
        """Return the process that answers, where one was started and has not been ended."""
        return self._process.pid if self._process is not None else None

    def ask(self, verb: str, **args: Any) -> Any:
        """Return the answer. Raises NoAnswer, NotOffered, Refusal."""
        deadline = time.monotonic() + self._limit_s
        if not self._lock.acquire(timeout=self._limit_s):
            raise NoAnswer(f"{self._way.said}: {verb}: an earlier question took all of {self._limit_s:g} s")
        try:
            try:
                self._start(deadline)
                said = self._exchange(verb, args, deadline)
            except _TooEarly:
                raise
            except NoAnswer as error:
                self._failed(str(error))
                raise
            self._failures = 0
        finally:
            self._lock.release()
        if said.get("not_offered"):
            raise NotOffered(f"{self._way.said}: {said.get('error')}")
        if "error" in said:
            number = said.get("number")
            raise Refusal(number if isinstance(number, int) else 0, str(said["error"])[:500])
        return said.get("answer")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _start(self, deadline: float) -> None:
        """Start the process where there is none of ours. Raises NoAnswer while it is too early after a failure."""
        if self._process is not None and self._owner != os.getpid():
            self._process.returncode = 0  # this is a fork of the loop: the process belongs to its parent
            self._end()
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it went while nobody asked, which is no failure
        if self._process is not None:
            return
        way = self._way
        if not way.python:
            raise NoAnswer(f"{way.said}: it names no interpreter that has pyslurm")
        wait_s = self._not_before - time.monotonic()
        if wait_s > 0:
            raise _TooEarly(
                f"{way.said}: its helper is started again in {wait_s:.0f} s; before: {self._last_failure}"
            )
        mark = f"\x1eberth-{secrets.token_hex(8)} "
        conf = f"SLURM_CONF={quote(way.conf)}; export SLURM_CONF\n" if way.conf else ""
        run = f"{quote(way.python)} -s -c {quote(self._source.read_text())} {quote(mark)}"
        program = f"cd /\n{conf}exec {shell.CLEAN} {run}\n"
        self._process = shell.start(way.prefix, way.said)
        self._owner = os.getpid()
        self._mark = mark.encode()
        self._read = self._errors = b""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        # Nothing more is written before its first word: the shell might read it.
        self._pump(program.encode(), deadline, lambda said: "hello" in said)

    def _exchange(self, verb: str, args: Data, deadline: float) -> Data:
        self._asked += 1
        number = self._asked
        line = json.dumps({"id": number, "verb": verb, "limit_s": self._limit_s, "args": args}) + "\n"
        return self._pump(line.encode(), deadline, lambda said: said.get("id") == number)

    def _pump(self, to_write: bytes, deadline: float, wanted: Any) -> Data:
        """Write, and read until a line of the helper's is the one that is wanted. Raises NoAnswer."""
        process = self._process
        assert process is not None and process.stdin is not None
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            ready.register(process.stderr, selectors.EVENT_READ)
            if to_write:
                ready.register(process.stdin, selectors.EVENT_WRITE)
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise NoAnswer(
                        f"{self._way.said}: pyslurm gave no answer within {self._limit_s:g} s{self._tail()}"
                    )
                for key, _ in ready.select(left_s):
                    if key.fileobj is process.stdin:
                        to_write = self._write(process.stdin, to_write)
                        if not to_write:
                            ready.unregister(process.stdin)
                    elif key.fileobj is process.stderr:
                        if not self._read_errors(process.stderr):
                            ready.unregister(process.stderr)
                    elif (said := self._read_lines(process.stdout, wanted)) is not None:
                        return said

    def _write(self, pipe: IO[bytes], data: bytes) -> bytes:
        try:
            return data[os.write(pipe.fileno(), data[:65536]) :]
        except BlockingIOError:
            return data
        except OSError:
            return b""  # it is gone: the end of its output says so

    def _read_errors(self, pipe: IO[bytes]) -> bool:
        more = os.read(pipe.fileno(), 65536)
        self._errors = (self._errors + more)[-_KEPT_ERROR_BYTES:]
        return bool(more)

    def _read_lines(self, pipe: IO[bytes], wanted: Any) -> Data | None:
        """Read the helper's answer. What is not marked as its own was printed by something on the way, and
        is no answer."""
        more = os.read(pipe.fileno(), 1 << 20)
        if not more:
            raise NoAnswer(f"{self._way.said}: {self._ended()}")
        self._read += more
        if len(self._read) > MAX_BYTES:
            raise NoAnswer(f"{self._way.said}: pyslurm's answer is larger than {MAX_BYTES / 2**20:g} MiB")
        *lines, self._read = self._read.split(b"\n")
        for line in lines:
            _, mark, text = line.rpartition(self._mark)
            if not mark:
                continue
            try:
                said = json.loads(text)
            except ValueError:
                continue
            if isinstance(said, dict) and wanted(said):
                return said
        return None

    def _ended(self) -> str:
        """Return why it said nothing more, in words."""
        assert self._process is not None
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return f"pyslurm's helper closed its output{self._tail()}"
        if self._process.stderr is not None:
            try:
                while self._read_errors(self._process.stderr):
                    pass
            except BlockingIOError:
                pass
        return f"pyslurm's helper ended with code {code}{self._tail()}"

    def _tail(self) -> str:
        said = " ".join(self._errors.decode(errors="replace").split())
        return f": {said[-400:]}" if said else ""

    def _failed(self, why: str) -> None:
        self._end()
        self._failures += 1
        pause_s = min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + pause_s
        self._last_failure = why

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._owner == os.getpid():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class _TooEarly(NoAnswer):
    """An answer that is not even asked for: the helper failed a moment ago."""
