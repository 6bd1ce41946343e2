"""A pilot's row and its profile → the job that is asked of Slurm, with the secret that only it may read."""

from __future__ import annotations

from gpuworker.wire import Secret, derive_key, dumps
from portal.catalog import patterns
from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet.models import Pilot
from scheduler.slurm.spec import JobSpec, SecretFile

SIGNAL_S = 60  # Slurm's hint before the end; the agent trusts the deadline that the portal tells it


def job_name(config: Config, pilot: str) -> str:
    """Return the name by which a job is found again after a crash (invariant 2)."""
    return f"berth-{config.instance}-{pilot}"


def log_path(config: Config, pilot: Pilot) -> str:
    """Return where the output of a job goes, as its nodes see it."""
    return f"{_spool(config, pilot.profile)}/log/{pilot.pk}.out"


def secret_path(config: Config, pilot: Pilot) -> str:
    """Return where the secret of a job lies, as its nodes see it."""
    return f"{_spool(config, pilot.profile)}/secret/{pilot.pk}.json"


def _spool(config: Config, profile: Profile) -> str:
    """Return where the nodes of a profile's jobs, and its way, see the spool. An access keeps it while its jobs live."""
    return (profile.access.spool if profile.access else "") or str(config.spool)


def _agent(config: Config, profile: Profile) -> tuple[str, str]:
    """Return the agent's interpreter and the folder of its package: the profile's, its access's or the portal's."""
    access = profile.access
    python = profile.agent_python or (access.agent_python if access else "") or config.agent_python
    return python, (access.agent_home if access else "") or config.agent_home


def portal_url_of(profile: Profile, config: Config) -> str:
    """Return where the nodes of a profile's jobs reach the portal: a URL."""
    return profile.portal_url_from_nodes or config.portal_url


def spec_of(pilot: Pilot, config: Config, exclude: tuple[str, ...] = ()) -> JobSpec:
    """Return the job that is asked of Slurm for a pilot. `exclude`: nodes on which starts have failed."""
    profile, name = pilot.profile, str(pilot.pk)
    agent_python, agent_home = _agent(config, profile)
    secret = Secret(
        pilot=name,
        portal_url=portal_url_of(profile, config),
        portal_token=derive_key(config.site_key, "portal", name),
        ingress_key=derive_key(config.site_key, "ingress", name),
    )
    on_node = pilot.gpus // pilot.nodes
    gpus = _gpus(profile, on_node)
    per_gpu = profile.mem_request == Profile.MemRequest.PER_GPU and on_node > 0
    mem_mb = 0 if per_gpu or profile.mem_request == Profile.MemRequest.NONE else pilot.mem_mb
    return JobSpec(
        name=pilot.job_name,
        pilot=name,
        log_path=log_path(config, pilot),
        agent_python=agent_python,
        agent_home=agent_home,
        secret=SecretFile(secret_path(config, pilot), dumps(secret).decode()),
        limit_min=pilot.walltime_min,
        least_limit_min=min(profile.walltime_least_min, pilot.walltime_min),
        cpus=profile.cpus,
        mem_mb=mem_mb,
        mem_per_gpu_mb=-(-pilot.mem_mb // on_node) if per_gpu else 0,
        partition=profile.partition,
        account=profile.account,
        qos=profile.qos,
        gres=f"gpu:{gpus}" if gpus and profile.gpu_request == Profile.GpuRequest.GRES else "",
        gpus_per_node=gpus if profile.gpu_request == Profile.GpuRequest.PER_NODE else "",
        gpus=on_node,
        nodes=pilot.nodes,
        constraint=profile.constraint,
        reservation=profile.reservation,
        licenses=profile.licenses,
        exclusive=profile.exclusive,
        nice=profile.nice,
        wckey=profile.wckey,
        extra=patterns.extra_pairs(profile.extra),
        exclude=",".join(exclude),
        signal_s=SIGNAL_S,
        door_address=profile.door_address,
        door_ports=profile.door_ports,
        link=profile.link,
        scratch=profile.scratch,
        prologue=profile.prologue.replace("\r\n", "\n").strip(),
    )


def _gpus(profile: Profile, count: int) -> str:
    """Return "a100:4", or "4" where the type is not to be named; "" for a job without GPUs."""
    if not count:
        return ""
    return f"{profile.gpu_type}:{count}" if profile.gpu_type and profile.gpu_type_asked else str(count)
