"""Turns a run folder into a private Slurm cluster: munged, slurmctld and one slurmd per virtual GPU node.

Separate because a cluster is more than one process and because tests do to it what happens to real ones: the
controller dies and returns, a node is lost. It has its own key, ports, spool and configuration, and so runs
beside a system Slurm, or beside another one of these, without touching it. `SLURM_CONF` (in `env()`) is the
only way in.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from devstack import apt, proctable, slurmrestd, trees
from devstack.accounting import Accounting
from devstack.checkout import ROOT, cache_dir
from devstack.hosts import Hosts, why_not
from devstack.ports import free_port
from devstack.procs import Child, Command, wait_until
from devstack.rundir import RunDir
from devstack.say import StepFailed
from devstack.slurmconf import SlurmSpec, rest_lines
from devstack.slurmfolder import lay_out, next_job_id, places
from devstack.slurmrestd import Slurmrestd
from devstack.trees import Tree

NODES_S = 120.0
POLITE_S = 10.0  # at stop, jobs have this long to end by themselves, whatever KillWait says


class Slurm:
    """A private Slurm cluster.

    `start()`, then give `env()` to whatever talks to it. `stop()` leaves no job, step or daemon behind.
    `tree`: where its programs come from, see `trees`. Commands of such a cluster are found with `prefix`.
    """

    def __init__(self, run_dir: Path, spec: SlurmSpec | None = None, tree: Tree | None = None) -> None:
        self.spec = spec or SlurmSpec()
        self.tree = tree or trees.chosen()
        self._run_dir = RunDir(run_dir)
        self._home = self._run_dir.path
        self._munged: Child | None = None
        self._controller: Child | None = None
        self._nodes: dict[str, Child] = {}
        self._accounting: Accounting | None = None
        self._rest: Slurmrestd | None = None
        self._controller_host = ""
        self._why_one_host = "asked for" if self.spec.one_host else why_not()
        self._hosts: Hosts | None = None
        self._home_as(self._home)

    def _home_as(self, home: Path) -> None:
        """Take this folder for the cluster's files. What every node sees of it, and of what jobs run, is shared."""
        self._home = home
        if not self._why_one_host:
            shared = (ROOT, cache_dir(), self._run_dir.path.parent, home)
            self._hosts = Hosts(self._run_dir, home, self.spec.node_names, shared)

    @property
    def why_one_host(self) -> str:
        """Return why the nodes are no hosts of their own, in words; "" where they are."""
        return self._why_one_host

    @property
    def hosts(self) -> Hosts:
        """Return the nodes' hosts. Raise StepFailed where all nodes are on the machine itself."""
        if self._hosts is None:
            raise StepFailed(f"the nodes are no hosts of their own: {self._why_one_host}")
        return self._hosts

    @property
    def portal_addresses(self) -> tuple[str, ...]:
        """Return where nodes reach the machine that the portal runs on: IPv4, and IPv6 where there is any."""
        if self._hosts is None:
            return ("127.0.0.1",)
        return tuple(address for address in (self._hosts.portal, self._hosts.portal6) if address)

    @property
    def conf(self) -> Path:
        return self._home / "slurm.conf"

    @property
    def log_dir(self) -> Path:
        return self._run_dir.log_dir

    @property
    def controller_pid(self) -> int:
        return self._controller.pid if self._controller else 0

    @property
    def munge_pid(self) -> int:
        return self._munged.pid if self._munged else 0

    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf)}

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return what to put before a shell, so that sbatch and the others that it starts are this
        cluster's."""
        words = self.tree.words if self.tree else ()
        return (*words, "env", f"SLURM_CONF={self.conf}", f"PATH={apt.SERVER_PATH}")

    @property
    def rest(self) -> Slurmrestd:
        """Return the slurmrestd of SlurmSpec(rest=True). Raise StepFailed where none was asked for."""
        if self._rest is None:
            raise StepFailed("this cluster has no slurmrestd", "SlurmSpec(rest=True), then start()")
        return self._rest

    @property
    def rest_url(self) -> str:
        """Return where slurmrestd answers, e.g. http://198.18.7.2:20123."""
        return self.rest.url

    def token(self, lifespan_s: int = 1800) -> str:
        """Return a token of this user for slurmrestd, which is taken for so long."""
        return self.run("scontrol", "token", f"lifespan={lifespan_s}").strip().removeprefix("SLURM_JWT=")

    def run(self, *argv: str, timeout_s: float = 30) -> str:
        """Run a Slurm command against this cluster; return its output, or raise StepFailed with what it
        said."""
        done = self._try(*argv, timeout_s=timeout_s)
        if done.returncode != 0:
            raise StepFailed(f"{' '.join(argv)} ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self) -> Slurm:
        if self.spec.rest and (why := slurmrestd.refusal()):
            raise StepFailed(why, "run it as root, or without rest=True")
        self._home_as(self._run_dir.short())
        self._run_dir.slurm_conf = str(self.conf)
        self._run_dir.open()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        if self._controller is not None and self._controller.alive:
            self.cancel_jobs()
        self._run_dir.closing()
        for child in [*self._nodes.values(), self._controller]:
            if child is not None and child.alive:
                proctable.send(child.pid, child.command.stop_signal)  # all at once, then wait for each
        for child in [*self._nodes.values(), self._controller]:
            if child is not None:
                child.stop()
        for last in (self._rest, self._accounting, self._munged):
            if last is not None:
                last.stop()
        self._nodes.clear()
        self._controller = self._munged = self._accounting = self._rest = None
        if self._hosts is not None:
            self._hosts.stop()
        self._run_dir.close(remove=self._disposable())

    def __enter__(self) -> Slurm:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def cancel_jobs(self) -> None:
        """Cancel every job and wait until Slurm has ended them; the sweep in `close` gets the rest."""
        jobs = self._try("squeue", "-h", "-a", "-o", "%A").stdout.split()
        if jobs:
            self._try("scancel", *sorted(set(jobs)))
            limit_s = min(self.spec.kill_wait_s + 2, POLITE_S)
            wait_until(lambda: not self._try("squeue", "-h", "-a", "-o", "%A").stdout.split(), limit_s)

    def _disposable(self) -> list[Path]:
        """Return the folders outside the run folder, which go with the cluster."""
        home = [] if self._home == self._run_dir.path else [self._home]
        return [*home, Slurmrestd.folder_of(self._home)] if self.spec.rest else home

    # What tests do to a cluster.

    def stop_controller(self) -> None:
        """Stop slurmctld alone, its state saved; jobs and nodes go on."""
        if self._controller is not None:
            self._controller.stop()

    def start_controller(self, *, forget: bool = False) -> None:
        """Start slurmctld with the state that it saved; with `forget` it knows no job and numbers from the
        start."""
        for saved in (self._home / "state").glob("job_state*") if forget else ():
            saved.unlink()
        self._start_controller()
        self._await_nodes(set(self._nodes))

    def node_down(self, name: str) -> None:
        """Lose a node with everything on it; Slurm is told, as its own time-out would take minutes."""
        slurmd = self._nodes.pop(name)
        # In a tree slurmd's mounts are its own; else they are its host's, with all that is to stay there.
        mounts = proctable.Mounts([slurmd.pid] if self.tree else [])

        def of_node() -> set[int]:
            marked = proctable.with_environment(proctable.NODE_MARK, self._node_mark(name))
            return marked | proctable.keepers(str(self._home / name)) | mounts.processes()

        try:
            slurmd.kill()
            proctable.sweep(of_node)
        finally:
            mounts.close()
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")

    def node_up(self, name: str) -> None:
        """Bring a lost node back, empty; ReturnToService=2 takes it back as soon as it registers."""
        self._start_node(name)
        self._await_nodes({name})

    def node_back(self, name: str) -> None:
        """Make the network of a host that was cut off whole again, and start its slurmd anew.

        A node that Slurm took DOWN would not be asked for many minutes. What ran there meanwhile goes on.
        """
        self.hosts.mend(name)
        self._nodes.pop(name).stop()
        self.node_up(name)

    # How it starts.

    def _start(self) -> None:
        self._run_dir.watch(remove=self._disposable())
        if self._hosts is not None:
            self._hosts.start()
        at = places(self._hosts, self.spec.node_names, free_port())
        self._controller_host = at.controller.host
        if self.spec.accounting:
            self._accounting = Accounting(
                self._home,
                self._env(),
                self._child_of_controller,
                self._program,
                at.controller if self._hosts is not None else replace(at.controller, host="localhost"),
                rest_lines(self._home) if self.spec.rest else [],
            )
        if self.spec.rest:
            address, with_accounts = at.controller.address, self.spec.accounting
            beside = self._child_of_controller
            self._rest = Slurmrestd(self._home, address, free_port(), beside, with_accounts)
        lay_out(
            self._home,
            self.spec,
            at,
            version=trees.release_of(self._program("slurmd")),
            first_job_id=next_job_id(self._run_dir.path),
            accounting_port=self._accounting.port if self._accounting is not None else 0,
        )
        self._start_munged()
        if self._accounting is not None:
            self._accounting.start()
        self._start_controller("-c")  # nothing of an earlier start is recovered
        if self._rest is not None:
            self._rest.start()
        for name in self.spec.node_names:
            self._start_node(name)
        self._await_nodes(set(self.spec.node_names))

    def _env(self, node: str = "") -> dict[str, str]:
        env = {"PATH": apt.SERVER_PATH, "TZ": "UTC", **self.env()}
        return {**env, proctable.NODE_MARK: self._node_mark(node)} if node else env

    def _node_mark(self, name: str) -> str:
        return f"{self._run_dir.mark}/{name}"

    def _program(self, name: str, *words: str) -> list[str]:
        """Return the command line of a program of this cluster's release. MariaDB's are always the machine's."""
        if self.tree is None or name.startswith("mariadb"):
            return [apt.program(name), *words]
        return [*self.tree.words, name, *words]

    def _child(
        self, name: str, argv: Sequence[str], *, host: str = "", node: str = "", grace_s: float = 10
    ) -> Child:
        """Start a process of this cluster: every one begins here. `host`: where it runs, "" is the machine itself."""
        prefix = self._hosts.enter(host) if self._hosts is not None and host else []
        argv = [*prefix, *self._program(*argv)]
        return Child(Command(name, argv, self._env(node), grace_s=grace_s), self._run_dir)

    def _child_of_controller(self, name: str, argv: list[str]) -> Child:
        return self._child(name, argv, host=self._controller_host)

    def _start_munged(self) -> None:
        home = self._home
        # --force: a group-writable home or checkout is a warning here, not an end; the key itself is 0600.
        argv = ["munged", "--foreground", "--force", f"--key-file={home}/munge.key"]
        argv += [f"--socket={home}/munge/socket", f"--pid-file={home}/munge/pid"]
        argv += [f"--log-file={home}/munged.log", f"--seed-file={home}/munge.seed"]
        self._munged = self._child("munged", argv)
        check = self._program("munge", "-n", "-S", str(home / "munge" / "socket"))

        def answers() -> bool:
            return subprocess.run(check, capture_output=True, check=False).returncode == 0

        self._munged.wait_ready(answers, 60)

    def _start_controller(self, *options: str) -> None:
        self._controller = self._child_of_controller("slurmctld", ["slurmctld", "-D", "-i", *options])
        self._controller.wait_ready(lambda: "UP" in self._try("scontrol", "ping").stdout, 90)

    def _start_node(self, name: str) -> None:
        self._nodes[name] = self._child(name, ["slurmd", "-D", "-N", name], host=name, node=name, grace_s=3)

    def _await_nodes(self, names: set[str]) -> None:
        if not names:
            return

        def ready() -> bool:
            out = self._try("sinfo", "-h", "-N", "-o", "%N %t", "-n", ",".join(names)).stdout
            states = dict(line.split() for line in out.splitlines())
            return set(states) == names and all(
                state in ("idle", "mix", "alloc") for state in states.values()
            )

        if not wait_until(ready, NODES_S):
            ended = [name for name in names if not self._nodes[name].alive]
            log = self.log_dir / f"{(ended or sorted(names))[0]}.log"
            listing = self._try("sinfo", "-N", "-o", "%N %T %E").stdout
            raise StepFailed(
                f"nodes did not become idle in {NODES_S:.0f} s:\n{listing}",
                f"read the logs in {log.parent}",
                log,
            )

    # How it stops.

    def _try(self, *argv: str, timeout_s: float = 10) -> subprocess.CompletedProcess[str]:
        """Try a Slurm command; one that hangs or is missing counts as failed."""
        command = self._program(*argv)
        try:
            return subprocess.run(
                command, env=self._env(), capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout_s:.0f} s")
