"""Turns `python3 -m devstack [postgres] [redis] [slurm]` into running services and their variables."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from devstack.say import Progress, exit_code
from devstack.slurmconf import SlurmSpec
from devstack.stack import Stack, interrupt_on_terminate

SERVICES = ("postgres", "redis", "slurm")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m devstack", description=__doc__)
    parser.add_argument("services", nargs="*", choices=[*SERVICES, []], help="all of them if none is named")
    parser.add_argument("--run-dir", type=Path, default=Path(".run/by-hand"))
    options = parser.parse_args()
    wanted = set(options.services) or set(SERVICES)
    interrupt_on_terminate()
    progress = Progress(out=lambda line: print(f"# {line}", flush=True))
    spec = SlurmSpec() if "slurm" in wanted else None
    with Stack(
        options.run_dir, progress, postgres="postgres" in wanted, redis="redis" in wanted, slurm=spec
    ) as stack:
        for name, value in stack.env().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        progress.say("up; Ctrl-C stops everything")
        try:
            signal.pause()
        except KeyboardInterrupt:
            progress.say("stopping")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
