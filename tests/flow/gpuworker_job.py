"""A gpuworker as Slurm starts it, below a fake portal or the real data plane: the supervisor in its own process, with
the environment that a job script gives it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp

from gpuworker import proctree, wire
from tests.flow.dataplane import Plane
from tests.flow.gpuworker_portal import KEY, PILOT, TOKEN, WITHIN_S, FakePortal, echo, fake_portal, until

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 90.0
SHORT = Path(tempfile.mkdtemp(prefix="b-"))
atexit.register(shutil.rmtree, SHORT, ignore_errors=True)


class Worker:
    """The supervisor as a process, and what a test asks of it."""

    def __init__(
        self, process: subprocess.Popen[bytes], portal: FakePortal, scratch: Path, log: Path
    ) -> None:
        self.process = process
        self.portal = portal
        self.scratch = scratch
        self.log = log

    @property
    def address(self) -> str:
        return self.portal.registers[-1].address

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self, within_s: float = WITHIN_S) -> int:
        await until(
            lambda: self.process.poll() is not None,
            f"the end of the gpuworker; log:\n{self.said()}",
            within_s,
        )
        assert self.process.returncode is not None
        return self.process.returncode

    def pids(self, module: str) -> list[int]:
        """Return the processes below the supervisor that run this Python module."""
        below = proctree.descendants(self.process.pid)
        return [pid for pid in below if command_of(pid)[1:3] == ["-m", module]]

    def wardens(self) -> list[int]:
        return [pid for pid in proctree.descendants(self.process.pid) if "-I" in command_of(pid)[:2]]

    async def engine_stats(self) -> dict[str, int]:
        socket = next(
            iter(sorted(self.scratch.glob("berth-*/*.sock"), key=lambda p: p.stat().st_mtime, reverse=True))
        )
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
            async with session.get("http://engine/stats") as answer:
                counts: dict[str, int] = await answer.json()
                return counts


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def scratch_of(folder: Path) -> Path:
    """Return a folder that stands for this one in a place short enough for sockets, which pytest's own
    need not be."""
    return SHORT / hashlib.sha256(str(folder).encode()).hexdigest()[:8]


@contextlib.contextmanager
def started(
    secret: wire.Secret,
    folder: Path,
    env: Mapping[str, str] | None = None,
    secret_mode: int = 0o600,
    carried: bool = False,
    there: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the supervisor as a job script does; end whatever it leaves. Its log is `job.log` in the folder.

    `carried`: the secret comes on standard input, as where no shell wrote a file. `there`: what comes before
    its command, so that it runs on another host.
    """
    scratch = scratch_of(folder)
    scratch.mkdir(exist_ok=True)
    path = folder / "secret.json"
    path.write_bytes(wire.dumps(secret))
    path.chmod(secret_mode)
    log = folder / "job.log"
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "77",
        "SLURMD_NODENAME": "gpu01",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "BERTH_SCRATCH": str(scratch),
        "BERTH_JOB_LOG": str(log),
        **(env or {}),
    }
    argv = [*there, sys.executable, "-m", "gpuworker", "--secret", "-" if carried else str(path)]
    with log.open("wb") as out, path.open("rb") as text:
        if carried:
            path.unlink()
        process = subprocess.Popen(argv, env=given, stdin=text, stdout=out, stderr=out, cwd="/")
    try:
        yield process
    finally:
        left = proctree.descendants(process.pid)
        process.kill()
        process.wait()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def worker(
    portal: FakePortal,
    folder: Path,
    env: Mapping[str, str] | None = None,
    secret_mode: int = 0o600,
    carried: bool = False,
    there: Sequence[str] = (),
) -> Iterator[Worker]:
    """Start a gpuworker below the fake portal."""
    secret = wire.Secret(PILOT, portal.url, TOKEN, KEY)
    with started(secret, folder, env, secret_mode, carried, there) as process:
        yield Worker(process, portal, scratch_of(folder), folder / "job.log")


@contextlib.contextmanager
def job(
    plane: Plane,
    pilot: str,
    folder: Path,
    link: str = "direct",
    env: Mapping[str, str] | None = None,
    there: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a gpuworker below the real data plane."""
    token, key = (wire.derive_key(plane.settings.site_key, use, pilot) for use in ("portal", "ingress"))
    secret = wire.Secret(pilot, plane.url, token, key)
    with started(secret, folder, {"BERTH_LINK": link, **(env or {})}, there=there) as process:
        yield process


def planned(plane: Plane, args: str = '{"load_s": 0.2}') -> tuple[str, str]:
    """Make a pilot and its replica in the data plane's tables, for `job` to be."""
    plane.sql("UPDATE catalog_pool SET args = %s::jsonb", (args,))
    pilot = plane.new_pilot(job_id=77)
    return pilot, plane.new_replica(pilot, cap=2)


def fence(
    request: str = "q1", *, attempt: int = 1, replica: str = "r1", key: str = KEY, alone: bool = False
) -> dict[str, str]:
    headers = {
        wire.HEADER_KEY: key,
        wire.HEADER_REPLICA: replica,
        wire.HEADER_REQUEST: request,
        wire.HEADER_ATTEMPT: str(attempt),
        "Content-Type": "application/json",
    }
    return headers | ({wire.HEADER_ALONE: "1"} if alone else {})


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *replicas: wire.DesiredReplica, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[FakePortal, Worker, aiohttp.ClientSession]]:
    """Start a portal, a gpuworker whose replicas are hot, and a client."""
    async with fake_portal() as portal:
        portal.set(desired=list(replicas or [echo()]))
        with worker(portal, folder, env) as job:
            for replica in portal.answer.desired:
                await portal.state("hot", replica.id)
            async with aiohttp.ClientSession(base_url=job.address) as client:
                yield portal, job, client
