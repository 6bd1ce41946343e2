"""`python -m gpuworker --secret FILE`: what a job script `exec`s. See `gpuworker.supervisor`."""

from __future__ import annotations

import argparse
import sys

from gpuworker import supervisor


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gpuworker", description="Berth's program inside a Slurm job"
    )
    parser.add_argument(
        "--secret", required=True, metavar="FILE", help="the pilot's 0600 file; - for standard input"
    )
    return supervisor.run(parser.parse_args().secret)


if __name__ == "__main__":
    sys.exit(main())
