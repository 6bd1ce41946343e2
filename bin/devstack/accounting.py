"""Turns a private cluster's folder into its accounting: a MariaDB of its own, slurmdbd, and an account for its user.

Separate from `slurm`, because few tests want it: limits of a QOS or an association, and what sacct knows, exist nowhere
else. It listens where slurmctld does; what bears no munge key of this cluster is refused.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from devstack.debootstrap import SLURMDBD_LIBRARIES
from devstack.ports import accepts, free_port
from devstack.procs import Child
from devstack.say import StepFailed
from devstack.slurmconf import Place

ACCOUNT = "lab"


def listens(path: Path) -> bool:
    """Return whether somebody answers at this unix socket."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return False
    return True


class Accounting:
    """The accounting of a private cluster: slurmdbd and its database.

    `home`: the cluster's folder, whose munged runs. `port` is slurmdbd's, for slurm.conf. `child` starts a
    process where slurmctld runs, under that name; `host` is that host's name, and `address` how others reach
    it.
    """

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        child: Callable[[str, list[str]], Child],
        program: Callable[..., list[str]],
        at: Place,
        more: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._home = home
        self._env = dict(env)
        self._start_child = child
        self._program = program
        self._at, self._more = at, more
        self._children: list[Child] = []

    def start(self) -> None:
        password = secrets.token_hex(16)
        database_port = self._start_database(password)
        self._write_conf(database_port, password)
        libraries = f"LD_LIBRARY_PATH={SLURMDBD_LIBRARIES}"  # a folder that only a tree has
        ready = lambda: accepts(self.port, address=self._at.address)  # noqa: E731
        self._child("slurmdbd", ["env", libraries, "slurmdbd", "-D"], ready)
        for words in (
            ("cluster", "berth"),
            ("account", ACCOUNT),
            ("user", getpass.getuser(), f"account={ACCOUNT}"),
        ):
            self._run("sacctmgr", "-i", "add", *words)

    def stop(self) -> None:
        for child in reversed(self._children):
            child.stop()
        self._children.clear()

    def _start_database(self, password: str) -> int:
        data, sock, port = self._home / "accounts", self._home / "accounts.sock", free_port()
        here = ["--no-defaults", f"--datadir={data}", f"--user={getpass.getuser()}"]
        data.mkdir(mode=0o700)
        self._run("mariadb-install-db", *here, "--auth-root-authentication-method=normal")
        where = [f"--socket={sock}", f"--port={port}", "--bind-address=127.0.0.1"]
        self._child("mariadbd", ["mariadbd", *here, *where], lambda: listens(sock))
        said = "".join(
            f"CREATE USER slurm@'{host}' IDENTIFIED BY '{password}'; GRANT ALL ON *.* TO slurm@'{host}';"
            for host in ("127.0.0.1", "localhost")
        )
        # Nobody else gets in: this one had no password.
        said += "DROP USER root@localhost;"
        self._run("mariadb", "--no-defaults", f"--socket={sock}", "--user=root", say=said)
        return port

    def _write_conf(self, database_port: int, password: str) -> None:
        conf = self._home / "slurmdbd.conf"
        conf.touch(mode=0o600)
        lines = [
            "AuthType=auth/munge",
            f"AuthInfo=socket={self._home}/munge/socket",
            f"DbdHost={self._at.host}",
            f"DbdPort={self.port}",
            f"SlurmUser={getpass.getuser()}",
            "StorageType=accounting_storage/mysql",
            "StorageHost=127.0.0.1",
            f"StoragePort={database_port}",
            "StorageUser=slurm",
            f"StoragePass={password}",
            "StorageLoc=accounts",
            f"PidFile={self._home}/slurmdbd.pid",
            *self._more,
        ]
        conf.write_text("\n".join(lines) + "\n")

    def _child(self, name: str, argv: list[str], ready: Callable[[], bool]) -> None:
        child = self._start_child(name, argv)
        self._children.append(child)
        child.wait_ready(ready, 90)

    def _run(self, *argv: str, say: str = "") -> None:
        done = subprocess.run(
            self._program(*argv), env={**os.environ, **self._env}, input=say, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise StepFailed(f"{argv[0]} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
