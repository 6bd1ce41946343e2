"""Turns a private cluster into one that answers HTTP: a slurmrestd beside its slurmctld, and tokens for it.

Separate from `slurm`, because few tests want it, and because it is the one daemon that refuses to run as root and as the
SlurmUser: it becomes `nobody`, who may read nothing of the cluster but a copy of slurm.conf. From a test:

    tree = trees.ensure(trees.TRIXIE, Progress())  # slurmrestd v0.0.40-42; trees.TESTING: v0.0.42-45
    with Slurm(folder, SlurmSpec(nodes=2, rest=True), tree=tree) as slurm:
        headers = {"X-SLURM-USER-NAME": "root", "X-SLURM-USER-TOKEN": slurm.token(lifespan_s=600)}
        requests.get(f"{slurm.rest_url}/slurm/v0.0.42/ping/", headers=headers)
        slurm.rest.stop(); slurm.rest.start()  # slurmctld goes on; the address stays
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack.ports import accepts
from devstack.procs import Child
from devstack.rundir import substitute

USER = "nobody"


def refusal() -> str:
    """Return why this user cannot have a slurmrestd; empty where nothing speaks against it."""
    return (
        "" if os.getuid() == 0 else "slurmrestd runs as another user than slurmctld: only root can start both"
    )


@dataclass
class Slurmrestd:
    """A private slurmrestd: `start()`, then `url`.

    `child` starts a process of the cluster, under that name, beside slurmctld.
    """

    home: Path
    address: str
    port: int
    child: Callable[[str, list[str]], Child]
    accounting: bool = False
    _child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    @staticmethod
    def folder_of(home: Path) -> Path:
        """Return the one place of that cluster which slurmrestd's user may enter; make it where it is missing."""
        return substitute(home / "rest", pwd.getpwnam(USER).pw_uid)

    def start(self) -> None:
        """Start it and wait until it listens. Raises StepFailed where that cannot be."""
        user = pwd.getpwnam(USER)
        folder = self.folder_of(self.home)
        shutil.copyfile(self.home / "slurm.conf", folder / "slurm.conf")
        become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        # Named, because of what is not: the part that asks slurmdbd keeps 24.11's from starting where there is none.
        parts = ["openapi/slurmctld", *(["openapi/slurmdbd"] if self.accounting else [])]
        serve = ["slurmrestd", "-f", str(folder / "slurm.conf"), "-a", "rest_auth/jwt", "-s", ",".join(parts)]
        conf = ["env", f"SLURM_CONF={folder}/slurm.conf", "SLURM_JWT=daemon"]
        self._child = self.child("slurmrestd", [*become, *conf, *serve, f"{self.address}:{self.port}"])
        self._child.wait_ready(lambda: accepts(self.port, address=self.address), 60)

    def stop(self) -> None:
        """End it; `start` brings it back at the same address."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def freeze(self, number: int) -> None:
        """Send it a signal, e.g. SIGSTOP: it then accepts connections and answers nobody, until SIGCONT."""
        os.kill(self.pid, number)
