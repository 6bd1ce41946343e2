"""Turns the steps of a run into lines a person can follow, and a failed step into a sentence that helps.

Separate because every part of the development stack reports through it: one look, one place that knows
how long each step took, and one exception that carries which step failed, why, and what to do about it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TAIL_LINES = 20


class StepFailed(Exception):
    """A step could not be done. `why` says what was seen, `remedy` what to do, `log` where to look."""

    def __init__(self, why: str, remedy: str = "", log: Path | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy
        self.log = log
        self.step = ""

    def text(self) -> str:
        lines = [f"step '{self.step or 'start'}' failed: {self.why}"]
        if self.log is not None:
            lines.append(f"  the end of {self.log}:")
            lines += [f"    {line}" for line in tail(self.log)] or ["    (empty)"]
        if self.remedy:
            lines.append(f"  what to do: {self.remedy}")
        return "\n".join(lines)


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log, or none where it does not exist."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 16_384))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


@dataclass
class Progress:
    """Print steps to `out` and remember how long each took (`seconds`, by step name)."""

    out: Callable[[str], None] = field(default=lambda line: print(line, flush=True))
    seconds: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Measure one named step; yield a function that prints a note with the seconds so far."""
        began = self.clock()
        self.out(f"▸ {name} …")

        def note(text: str) -> None:
            self.out(f"    {self.clock() - began:5.1f} s  {text}")

        try:
            yield note
        except StepFailed as failure:
            failure.step = failure.step or name
            raise
        took = self.clock() - began
        self.seconds[name] = round(took, 2)
        self.out(f"✓ {name} ({took:.1f} s)")

    def say(self, text: str) -> None:
        self.out(text)


SILENT = Progress(out=lambda _line: None)


def exit_code(main: Callable[[], int]) -> int:
    """Run a program's main; a failed step becomes its sentence on stderr and exit status 1."""
    try:
        return main()
    except StepFailed as failure:
        sys.stdout.flush()
        print(f"✗ {failure.text()}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("✗ interrupted; what was started here is stopped", file=sys.stderr, flush=True)
        return 130
