"""Turns the job's environment variables and the pilot's secret file into typed values, once, at start.

The job script sets the BERTH_* variables; Slurm the others. Nothing secret travels this way: the token and the
ingress key are in a file only its owner can read.

    BERTH_DOOR_ADDRESS      an interface, a network or an address of this node that the
                            ingress is to serve on                                  from where the portal is reached
    BERTH_DOOR_PORTS        ports the ingress may bind, "20000-20100"               any free port
    BERTH_LINK              direct: gateways dial the ingress; reverse: the agent
                            opens links to the portal and binds no port             direct
    BERTH_SCRATCH           node-local folder for sockets and engine logs           the system's temporary folder
    BERTH_PILOT_DIR         this pilot's folder in it; made by the supervisor       -
    BERTH_JOB_LOG           the job's own stdout and stderr, for `want_log`         none
    BERTH_STARTED_AT        UNIX seconds at the job script's first line             the agent's start
    BERTH_PORTAL_SILENCE_S  no word from the portal and nothing running: end        1800
    BERTH_REGISTER_LIMIT_S  how long to try to register                             1800
    BERTH_GPUS              GPUs that the job asked for on each of its nodes        nothing to compare with
    BERTH_NODES             nodes of the job                                        1
    BERTH_MEM_MB            host memory that it asked for on each, MiB              nothing to compare with
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpuworker import wire

KNOWN = frozenset(
    {
        "BERTH_DOOR_ADDRESS",
        "BERTH_DOOR_PORTS",
        "BERTH_LINK",
        "BERTH_SCRATCH",
        "BERTH_PILOT",  # said by the job script for people; the secret file is what counts
        "BERTH_PILOT_DIR",
        "BERTH_JOB_LOG",
        "BERTH_STARTED_AT",
        "BERTH_PORTAL_SILENCE_S",
        "BERTH_REGISTER_LIMIT_S",
        "BERTH_GPUS",
        "BERTH_MEM_MB",
        "BERTH_NODES",
    }
)


class SettingsError(ValueError):
    """An environment variable or the secret file cannot be used; the text says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    door_address: str  # see gpuworker.addresses
    door_ports: tuple[int, int] | None  # first and last; None = any free port
    reverse: bool  # gateways cannot dial this node: the agent opens the links
    pilot_dir: Path
    job_log: Path | None
    started_at: float | None
    portal_silence_s: float
    register_limit_s: float
    job_id: int
    restart_count: int
    node: str
    nodes: int
    asked_gpus: int | None  # on each node; None: nobody said
    asked_mem_mb: int  # on each node; 0: nobody said


def read(env: Mapping[str, str]) -> Settings:
    folder = env.get("BERTH_PILOT_DIR")
    if not folder:
        raise SettingsError("BERTH_PILOT_DIR is not set: start the gpuworker with `python -m gpuworker`")
    job_log = env.get("BERTH_JOB_LOG")
    job_id, node = job_of(env)
    return Settings(
        door_address=(env.get("BERTH_DOOR_ADDRESS") or "").strip(),
        door_ports=_ports(env.get("BERTH_DOOR_PORTS") or ""),
        reverse=_reverse(env.get("BERTH_LINK") or "direct"),
        pilot_dir=Path(folder),
        job_log=Path(job_log) if job_log else None,
        started_at=_number(env, "BERTH_STARTED_AT", None),
        portal_silence_s=_number(env, "BERTH_PORTAL_SILENCE_S", 1800.0) or 0.0,
        register_limit_s=_number(env, "BERTH_REGISTER_LIMIT_S", 1800.0) or 0.0,
        job_id=job_id,
        restart_count=int(_number(env, "SLURM_RESTART_COUNT", 0.0) or 0),
        node=node,
        nodes=_whole(env, "BERTH_NODES") or 1,
        asked_gpus=_whole(env, "BERTH_GPUS"),
        asked_mem_mb=_whole(env, "BERTH_MEM_MB") or 0,
    )


def unknown(env: Mapping[str, str]) -> list[str]:
    """List BERTH_* names that nothing here reads: most likely misspelt, worth a line in the log."""
    return sorted(name for name in env if name.startswith("BERTH_") and name not in KNOWN)


def _number(env: Mapping[str, str], name: str, default: float | None) -> float | None:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name}={text!r} is not a number") from None
    if value < 0:
        raise SettingsError(f"{name}={text!r} is negative")
    return value


def _whole(env: Mapping[str, str], name: str) -> int | None:
    value = _number(env, name, None)
    return None if value is None else int(value)


def _ports(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    first, _, last = text.partition("-")
    try:
        span = int(first), int(last or first)
    except ValueError:
        span = (0, 0)
    if not 0 < span[0] <= span[1] < 65536:
        raise SettingsError(f'BERTH_DOOR_PORTS={text!r} is not a range of ports like "20000-20100"')
    return span


def job_of(env: Mapping[str, str]) -> tuple[int, str]:
    """Return the job's number, and what Slurm calls this node; its own name may be another one, or a
    longer one."""
    listed = env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or ""
    one = listed if listed and not set(listed) & set("[],") else ""
    node = env.get("SLURMD_NODENAME") or one or socket.gethostname().partition(".")[0]
    return int(_number(env, "SLURM_JOB_ID", 0.0) or 0), node


def _reverse(link: str) -> bool:
    if link not in ("direct", "reverse"):
        raise SettingsError(f"BERTH_LINK={link!r} is neither direct nor reverse")
    return link == "reverse"


def await_secret(path: Path, wait_s: float) -> wire.Secret:
    """Read the secret, with patience for a file that is not there.

    A node may have looked into its folder on a shared file system before it was written, and believe what it
    saw for some seconds.
    """
    until = time.monotonic() + wait_s
    while not path.exists() and time.monotonic() < until:
        time.sleep(min(0.5, wait_s))
    return read_secret(path)


def read_secret(path: Path) -> wire.Secret:
    """Read the pilot's secret file. Others must not be able to read it: compute nodes have many users."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno())
            data = file.read()
    except OSError as error:
        raise SettingsError(f"secret file {path}: {error.strerror}") from None
    if stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid != os.geteuid():
        raise SettingsError(f"secret file {path} must belong to this user and have mode 0600")
    try:
        secret = wire.loads(wire.Secret, data)
    except wire.WireError as error:
        # The error names fields and types, never values.
        raise SettingsError(f"secret file {path}: {error}") from None
    if not secret.portal_url.startswith(("http://", "https://")):
        raise SettingsError(f"secret file {path}: portal_url is not an http(s) URL")
    return secret
