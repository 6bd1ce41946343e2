"""Turns a run folder into a private Redis on a free loopback port that keeps nothing on disk.

Separate from the others because Redis is soft state here: it starts empty, and tests kill and flush it on
purpose.
"""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

from devstack import apt
from devstack.ports import free_port
from devstack.procs import Child, Command
from devstack.rundir import RunDir


class Redis:
    """A private Redis: `start()`, then `url`.

    `kill()` and `start_server()` are for fault tests: same port, same password.
    """

    def __init__(self, run_dir: Path) -> None:
        self.port = 0
        self._run_dir = RunDir(run_dir)
        self._child: Child | None = None
        self._password = secrets.token_urlsafe(18)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def start(self) -> Redis:
        self._run_dir.open()
        try:
            self._run_dir.watch()
            self.port = free_port()
            self._write_config()
            self.start_server()
        except BaseException:
            self.stop()
            raise
        return self

    def start_server(self) -> None:
        config = self._run_dir.path / "redis.conf"
        argv = [apt.program("redis-server"), str(config)]
        self._child = Child(Command("redis", argv, {"PATH": apt.SERVER_PATH}, grace_s=5), self._run_dir)
        self._child.wait_ready(self._answers, 60)

    def kill(self) -> None:
        """Send SIGKILL to the server alone; everything it held is gone."""
        if self._child is not None:
            self._child.kill()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None
        self._run_dir.close()

    def __enter__(self) -> Redis:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _write_config(self) -> None:
        config = self._run_dir.path / "redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password}",
            f"dir {self._run_dir.path}",
            'save ""',
            "appendonly no",
            "daemonize no",
        ]
        config.write_text("\n".join(lines) + "\n")

    def _answers(self) -> bool:
        argv = [apt.program("redis-cli"), "-p", str(self.port), "ping"]
        env = {"PATH": apt.SERVER_PATH, "REDISCLI_AUTH": self._password}
        return (
            subprocess.run(argv, env=env, capture_output=True, text=True, check=False).stdout.strip()
            == "PONG"
        )
