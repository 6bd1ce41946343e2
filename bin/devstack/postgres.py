"""Turns a run folder into a private PostgreSQL: initialised once, on a free loopback port, with a password of
its own.

Separate because of one trait no other service has: it refuses to run as root. Started by root it becomes the
system's `postgres` user, whose data must then lie where that user can go (not in a 0700 home).
"""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
from pathlib import Path

from devstack import apt, proctable
from devstack.ports import free_port
from devstack.procs import Child, Command, wait_until
from devstack.rundir import RunDir, reachable, substitute
from devstack.say import StepFailed

ROLE = DATABASE = "berth"
SYSTEM_USER = "postgres"
REMEDY = "if its data is damaged, remove the folder: bin/demo makes a new one"


class Postgres:
    """A private PostgreSQL: `start()`, then `dsn`.

    `durable=False` (tests) skips fsync; `keep` the data after `stop()`: if durable. `kill()` and
    `start_server()` are for fault tests: same port, same data.
    """

    def __init__(self, run_dir: Path, durable: bool = True, keep: bool | None = None) -> None:
        self.durable = durable
        self.keep = durable if keep is None else keep
        self.port = 0
        self._run_dir = RunDir(run_dir)
        self._child: Child | None = None
        self._user = SYSTEM_USER if os.getuid() == 0 else None
        self._bin = apt.postgres_bin()
        self._home = self._run_dir.path
        self._password = ""

    @property
    def dsn(self) -> str:
        return f"postgresql://{ROLE}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def start(self) -> Postgres:
        self._run_dir.open()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None
        self._run_dir.close(remove=self._disposable())

    def __enter__(self) -> Postgres:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _disposable(self) -> list[Path]:
        if self.keep:
            return []
        return [self._data] if self._home == self._run_dir.path else [self._home]

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _start(self) -> None:
        if self._bin is None:
            raise StepFailed("PostgreSQL is not installed", "run bin/demo or bin/test once: they install it")
        self._home = self._place()
        if not self.keep:
            for folder in self._disposable():
                subprocess.run(["rm", "-rf", str(folder)], check=True)
            self._home = self._place()
        self._run_dir.watch(remove=self._disposable())
        self._init()
        self.port = free_port()
        self.start_server()
        self._create_database()

    def start_server(self) -> None:
        self._child = Child(self._command(), self._run_dir)
        self._child.wait_ready(self._answers, 120, REMEDY)

    def kill(self) -> None:
        """End server and sessions at once, as a power cut does: nothing is written any more.

        SIGKILL to the server alone would leave sessions that keep the next one from starting.
        """
        if self._child is not None:
            child = self._child
            proctable.send(child.pid, signal.SIGQUIT)
            wait_until(lambda: not child.alive, 20)
            child.kill()

    def _place(self) -> Path:
        """Return the folder for data and socket: ours, or its stand-in where `postgres` cannot enter ours."""
        if self._user is None:
            return self._run_dir.short()
        owner = pwd.getpwnam(self._user)
        home = self._run_dir.path / "home"
        if len(str(home)) <= 80 and reachable(self._run_dir.path, owner.pw_uid, owner.pw_gid):
            home.mkdir(mode=0o700, exist_ok=True)
        else:
            home = substitute(self._run_dir.path, owner.pw_uid)
        os.chown(home, owner.pw_uid, owner.pw_gid)
        return home

    def _init(self) -> None:
        """Run initdb unless a finished data folder is there; the marker is written last."""
        password_file = self._run_dir.path / "password"
        finished = self._run_dir.path / "initialised"
        if finished.exists() and (self._data / "PG_VERSION").exists() and password_file.exists():
            self._password = password_file.read_text()
            self._forget_stale_postmaster()
            return
        finished.unlink(missing_ok=True)
        subprocess.run(["rm", "-rf", str(self._data)], check=True)
        self._password = secrets.token_urlsafe(18)
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        assert self._bin is not None
        for_initdb = self._home / "initdb.pw"
        for_initdb.unlink(missing_ok=True)
        for_initdb.touch(mode=0o600)
        for_initdb.write_text(self._password)
        owner = pwd.getpwnam(self._user) if self._user else None
        if owner is not None:
            os.chown(for_initdb, owner.pw_uid, owner.pw_gid)
        argv = [str(self._bin / "initdb"), "-D", str(self._data), "-U", ROLE, f"--pwfile={for_initdb}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        log = self._run_dir.log_dir / "initdb.log"
        with log.open("wb") as out:
            done = subprocess.run(
                argv if self.durable else [*argv, "--no-sync"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": apt.SERVER_PATH, "LC_ALL": "C.UTF-8"},
                user=self._user,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
                check=False,
            )
        for_initdb.unlink()
        if done.returncode != 0:
            raise StepFailed(f"initdb ended with status {done.returncode}", "", log)
        finished.touch()

    def _forget_stale_postmaster(self) -> None:
        """Forget a stale postmaster.pid, whose reused pid would keep the server from starting; we hold the
        folder's lock."""
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
            running = Path(f"/proc/{pid}/exe").resolve().name == "postgres"
        except (OSError, ValueError, IndexError):
            running = False
        if not running:
            pid_file.unlink(missing_ok=True)

    def _command(self) -> Command:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._home),
            "max_connections": "200",
            "logging_collector": "off",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        argv = [str(self._bin and self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        env = {"PATH": apt.SERVER_PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        # SIGINT is PostgreSQL's "fast" stop; SIGTERM would wait for every client to leave.
        return Command("postgres", argv, env, user=self._user, stop_signal=signal.SIGINT, grace_s=20)

    def _psql(self, sql: str, database: str = "postgres") -> subprocess.CompletedProcess[str]:
        argv = [apt.program("psql"), "-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", str(self.port)]
        env = {"PATH": apt.SERVER_PATH, "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "3"}
        return subprocess.run(
            [*argv, "-U", ROLE, "-d", database, "-c", sql],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    def _answers(self) -> bool:
        return self._psql("SELECT 1").returncode == 0

    def _create_database(self) -> None:
        if self._psql("SELECT 1", DATABASE).returncode == 0:
            return
        made = self._psql(f"CREATE DATABASE {DATABASE}")
        if made.returncode != 0:
            raise StepFailed(f"could not create the database: {made.stderr.strip()}", REMEDY)
