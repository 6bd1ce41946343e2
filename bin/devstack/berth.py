"""Turns an installed machine into a running Berth that somebody can ask: services, migrated, seeded, started.

Shared by the demo, which stays up for a person, and the benches, which measure it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack import apt, demomodel, envs
from devstack.checkout import cache_dir
from devstack.procs import wait_until
from devstack.say import Progress, StepFailed
from devstack.site import Site
from devstack.slurmconf import SlurmSpec
from devstack.stack import Stack, held_interrupts

READY_S = 120.0


@dataclass(frozen=True)
class Berth:
    """A running Berth and how to ask it. `logins`: role to (user name, password)."""

    stack: Stack
    site: Site
    token: str
    model: str
    logins: dict[str, tuple[str, str]]


def install(progress: Progress) -> Path:
    """Install everything that is kept between runs; return the demo model's folder."""
    apt.install(apt.SERVICES, progress, cache_dir() / "apt.log")
    for wanted in (envs.PORTAL, envs.AGENT, envs.VLLM_CPU):
        envs.ensure(wanted, progress)
    return demomodel.ensure(progress)


@contextlib.contextmanager
def running(
    run_dir: Path,
    model: Path,
    progress: Progress,
    spec: SlurmSpec | None = None,
    settings: Mapping[str, str] | None = None,
    keep: bool = False,
    also: Sequence[str] = (),
) -> Iterator[Berth]:
    """Start everything below `run_dir`, and stop everything on the way out; the data go too unless `keep`.

    `also`: the portal's addresses on further private clusters.
    """
    with Stack(run_dir, progress, slurm=spec or SlurmSpec(), keep=keep) as stack:
        nodes = stack.slurm.portal_addresses if stack.slurm is not None else ()
        with Site(run_dir, stack.env(), progress, settings, (*nodes, *also)) as site:
            with progress.step("Migrate the database; set up keys, people, a token, the model"):
                berth = set_up(stack, site, model)
            with progress.step("Start web, worker and beat"):
                site.start()
                if not wait_until(lambda: site.get("/readyz") == 200, READY_S):
                    why = f"the control loop completed no tick in {READY_S:.0f} s"
                    raise StepFailed(why, f"read the logs in {site.log_dir}", site.log_dir / "worker.log")
            try:
                yield berth
            finally:
                with held_interrupts():
                    # Jobs end while the portal still listens; without beat nothing asks for new ones.
                    site.stop_process("beat")
                    site.stop_process("worker")
                    if stack.slurm is not None:
                        stack.slurm.cancel_jobs()
                    site.stop()


def set_up(stack: Stack, site: Site, model: Path) -> Berth:
    """Bring database, keys and the demo's people and models up to date; the last command prints JSON."""
    python = str(envs.VLLM_CPU.python)
    seed = ["demo_seed", "--json", "--model-path", str(model), "--engine-python", python]
    seed += [f"--portal-url-from-nodes={url}" for url in site.urls_from_nodes[:1]]
    out = site.manage(["migrate", "--no-input", "-v", "0"], ["setup"], seed)
    try:
        seeded: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        logins = {role: (seeded[role]["username"], seeded[role]["password"]) for role in ("admin", "user")}
        return Berth(stack, site, str(seeded["token"]), str(seeded["model"]), logins)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise StepFailed(f"manage.py demo_seed printed something unexpected: {error!r}") from None
