"""Turns a URL into what wrk measures at it: requests a second and the median latency.

wrk, because a load generator in Python would measure itself. One thread, a keep-alive connection per `c`.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack import apt
from devstack.say import StepFailed

_SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
for name, value in pairs({%s}) do wrk.headers[name] = value end
"""
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Load:
    """A load: what is asked, at which address, with which token."""

    url: str
    token: str
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Rate:
    per_s: float
    p50_ms: float
    requests: int


def drive(folder: Path, load: Load, connections: int, seconds: float, may_fail: bool = False) -> Rate:
    """Make one run. Raise StepFailed when there was no answer, or any was an error and may not be."""
    script = folder / "wrk.lua"
    headers = ",".join(f'["{name}"]="{value}"' for name, value in load.headers)
    script.touch(mode=0o600)
    script.write_text(_SCRIPT % (json.dumps(load.body, separators=(",", ":")), load.token, headers))
    argv = [apt.program("wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
    argv += ["--latency", "-s", str(script), load.url]
    out = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    rate = read(out)
    trouble = re.search(r"Non-2xx.*|Socket errors.*", out)
    if rate is None or rate.requests == 0 or (trouble is not None and not may_fail):
        raise StepFailed(f"wrk at {load.url}: {trouble.group(0) if trouble else out[-300:]}")
    return rate


def read(out: str) -> Rate | None:
    """Parse wrk's output into figures."""
    per_s = re.search(r"Requests/sec:\s*([\d.]+)", out)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s|m)\b", out)
    total = re.search(r"(\d+) requests in", out)
    if per_s is None or p50 is None or total is None:
        return None
    return Rate(float(per_s.group(1)), float(p50.group(1)) * _UNITS[p50.group(2)], int(total.group(1)))
