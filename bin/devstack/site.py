"""Turns started services into a running Berth: its environment variables, and web, worker and beat kept alive.

Separate from `stack` because this half knows Django's commands, while the services below serve anybody.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devstack import envs, trees
from devstack.checkout import ROOT
from devstack.ports import free_port
from devstack.procs import Child, Command
from devstack.rundir import RunDir
from devstack.say import Progress, StepFailed

WATCH_EVERY_S = 0.5
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# manage.py for several commands: importing Django takes longer than any of them.
MANAGE = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
from django.core.management import execute_from_command_line
for command in json.loads(sys.argv[1]):
    execute_from_command_line(["manage.py", *command])
"""
# uvicorn listens at one address only: this one at several, all with the same port. argv: port, addresses.
WEB = """
import socket, sys
import uvicorn
port, addresses = int(sys.argv[1]), sys.argv[2:]
families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
sockets = [socket.create_server(at, family=family) for at, family in zip([(a, port) for a in addresses], families)]
config = uvicorn.Config(
    "portal.asgi:application", loop="uvloop", http="httptools", access_log=False, lifespan="on",
    ws="portal.workerapi.link:Upgrade", timeout_graceful_shutdown=5,
)
server = uvicorn.Server(config)
server.run(sockets)
sys.exit(0 if server.started else 3)
"""
STEADY_S = 60.0  # a child that ran this long starts again without delay


LOOPBACK = "127.0.0.1"


def in_url(address: str) -> str:
    """Return the address as URLs and Host headers have it."""
    return f"[{address}]" if ":" in address else address


@dataclass
class Supervised:
    """A process that should run: its command, the child that does, and when to try again."""

    command: Command
    child: Child
    failures: int = 0
    started: float = field(default_factory=time.monotonic)
    again_at: float | None = None


class Site:
    """The portal's processes: `start()` brings up web, worker and beat; `stop()` ends them; `manage()` runs
    commands.

    People find it on loopback. `for_nodes` are the addresses where it listens as well, for those on other
    hosts.
    """

    def __init__(
        self,
        run_dir: Path,
        services: dict[str, str],
        progress: Progress,
        settings: Mapping[str, str] | None = None,
        for_nodes: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._for_nodes = [address for address in for_nodes if address != LOOPBACK]
        self.run_dir = run_dir
        self.log_dir = run_dir / "log"
        self._services = services
        self._settings = settings or {}
        self._progress = progress
        self._home = RunDir(run_dir / "site", self.log_dir)
        self._children: dict[str, Supervised] = {}
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def urls_from_nodes(self) -> list[str]:
        """Return where hosts of the private cluster find the portal, IPv4 first; none where loopback will
        do."""
        return [f"http://{host}:{self.port}" for host in map(in_url, self._for_nodes)]

    def env(self) -> dict[str, str]:
        """Return every variable that Berth's processes read; those of the caller's own shell are not
        passed on."""
        return {
            "PATH": f"{envs.PORTAL.folder() / 'bin'}:{trees.search_path()}",
            "HOME": str(Path.home()),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            **self._services,
            "BERTH_STATE_DIR": str(self.run_dir / "state"),
            "BERTH_SPOOL": str(self.run_dir / "spool"),
            "BERTH_PORTAL_URL": self.url,
            "BERTH_ALLOWED_HOSTS": ",".join([LOOPBACK, "localhost", *map(in_url, self._for_nodes)]),
            "BERTH_AGENT_PYTHON": str(envs.AGENT.python),
            "BERTH_SLURM_MIN_INTERVAL_S": "1",
            "BERTH_TICK_S": "2",
            "BERTH_SECURE_COOKIES": "0",
            "BERTH_DEBUG": "0",
            **self._settings,
        }

    def open(self) -> None:
        """Make the folders; end what a crashed run left."""
        for name in ("state", "spool"):
            (self.run_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.open()
        self._home.watch()

    def manage(self, *commands: Sequence[str], timeout_s: float = 180) -> str:
        """Run Django commands, one after the other in one process; return their standard output."""
        names = ", ".join(command[0] for command in commands)
        argv = [str(envs.PORTAL.python), "-c", MANAGE, json.dumps(commands)]
        try:
            done = subprocess.run(
                argv, cwd=ROOT, env=self.env(), capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise StepFailed(f"manage.py {names} took longer than {timeout_s:.0f} s") from None
        log = self.log_dir / "manage.log"
        with log.open("a") as out:
            # Standard output may hold a token (demo_seed prints one): only what went wrong is kept.
            out.write(f"manage.py {names}: status {done.returncode}\n{done.stderr}")
        if done.returncode != 0:
            raise StepFailed(f"manage.py {names}: status {done.returncode}", "", log)
        return done.stdout

    def start(self, names: Sequence[str] = ("web", "worker", "beat")) -> None:
        """Start web, worker and beat, or the web alone, and wait until the web answers."""
        for command in self.commands():
            if command.name not in names:
                continue
            self._children[command.name] = Supervised(command, Child(command, self._home))
        self._children["web"].child.wait_ready(lambda: self.get("/healthz") == 200, 120)
        self._watcher = threading.Thread(target=self._watch, name="site-watcher", daemon=True)
        self._watcher.start()

    def commands(self) -> list[Command]:
        python = str(envs.PORTAL.python)
        celery = [python, "-m", "celery", "-A", "portal"]
        web = [python, "-c", WEB, str(self.port), LOOPBACK, *self._for_nodes]
        # The loop, batches and notices hold one each at most, so none of them waits for another.
        worker = [*celery, "worker", "-l", "INFO", "-c", "3", "--without-gossip", "--without-mingle"]
        beat = [*celery, "beat", "-s", str(self.run_dir / "site" / "beat-schedule"), "--pidfile="]
        argvs = {"web": web, "worker": worker, "beat": beat}
        return [Command(name, argv, self.env(), cwd=ROOT, grace_s=10) for name, argv in argvs.items()]

    def get(self, path: str) -> int:
        """Return the status of a page, or 0 where nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pid(self, name: str) -> int:
        return self._children[name].child.pid

    def stop_process(self, name: str) -> None:
        """End one of them for good; from here on nothing is started again."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        if name in self._children:
            self._children.pop(name).child.stop()

    def stop(self) -> None:
        for name in ("beat", "worker", "web"):
            self.stop_process(name)
        self._home.close()

    def __enter__(self) -> Site:
        try:
            self.open()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _watch(self) -> None:
        """Start again what died, until stopped: at once after a steady run, else with growing pauses."""
        while not self._stopping.wait(WATCH_EVERY_S):
            for supervised in self._children.values():
                self._revive(supervised, time.monotonic())

    def _revive(self, supervised: Supervised, now: float) -> None:
        if supervised.child.alive:
            return
        name = supervised.command.name
        if supervised.again_at is None:
            steady = now - supervised.started >= STEADY_S
            supervised.failures = 0 if steady else supervised.failures
            pause_s = BACKOFF_S[min(supervised.failures, len(BACKOFF_S) - 1)]
            supervised.again_at = now + pause_s
            supervised.failures += 1
            code = supervised.child.returncode()
            self._progress.say(
                f"! {name} ended with status {code}; again in {pause_s:.0f} s ({self.log_dir})"
            )
        elif now >= supervised.again_at:
            supervised.child = Child(supervised.command, self._home)
            supervised.started, supervised.again_at = now, None
