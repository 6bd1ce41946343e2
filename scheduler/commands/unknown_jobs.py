"""The commands adopt and reject: a person decides what an unknown job of ours becomes, a pilot or nothing.

Separate, because nothing else makes a pilot of a job that no intent asked for.
"""

from __future__ import annotations

from uuid import UUID

from portal.catalog.models import Profile
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Command, Pilot
from portal.fleet.states import PilotState
from scheduler.act import refusals
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write
from scheduler.commands.outcomes import Later, Refused
from scheduler.commands.targets import cluster_of
from scheduler.jobs.pilots import intent
from scheduler.observe.listing import OurJob
from scheduler.observe.unknown_jobs import UnknownJob, of
from scheduler.observe.ways import Site
from scheduler.policy.decisions import Inputs
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.way import Way


def decide(actor: Actor, command: Command) -> str:
    """Carry out adopt or reject, and return what was done, in words. Raises Refused, Later."""
    job_id = command.args.get("job_id")
    if not isinstance(job_id, int):
        raise Refused("It names no job.")
    cluster = _cluster_of(actor, command, job_id)
    if command.kind == Command.Kind.REJECT:
        return reject(actor, cluster, job_id, command.asked_by)
    profile = str(command.args.get("profile") or "")
    return adopt(actor, cluster, job_id, profile, command.asked_by)


def _cluster_of(actor: Actor, command: Command, job_id: int) -> str:
    """Return the cluster that is named, else the only one that has such an unknown job: a number means a job within
    one."""
    if command.args.get("cluster"):
        return cluster_of(actor, command)
    having = [name for name, row in actor.site.clusters.items() if str(job_id) in row.orphans]
    if len(having) > 1:
        raise Refused(f"Clusters {' and '.join(having)} both have an unknown job {job_id}: name the cluster.")
    return having[0] if having else actor.config.cluster


def adopt(actor: Actor, cluster: str, job_id: int, profile_name: str, who: str) -> str:
    """Make a pilot of an unknown job, and return what was done, in words. Its agent, if it runs, registers again and
    brings its address with it; the models that it had are not known and stop. `profile_name` may be empty where the
    job's partition tells. Raises Refused."""
    job = _find(actor, cluster, job_id).job
    try:
        pilot_id = UUID(job.pilot)
    except ValueError:
        raise Refused(f"The name of job {job_id} holds no pilot's id.") from None
    if Pilot.objects.filter(pk=pilot_id).exists():
        raise Refused(f"The pilot of job {job_id} has ended here: cancel the job instead.")
    live = Pilot.objects.exclude(state=PilotState.ENDED)
    if live.filter(cluster=cluster, job_id=job_id).exists():
        raise Refused(
            f"Slurm gave the number {job_id} twice: try again once the pilot that had it before has ended."
        )
    profile = _profile(actor.site, job, profile_name)
    pilot = intent(actor.config, profile, pilot=pilot_id, nodes=_nodes(job, profile))
    reason = f"{who} took job {job_id}, which nothing here knew, for a pilot of {profile.name}."
    with moving() as cur:
        fleet.plan(cur, pilot, actor.now())
        fleet.submitted(cur, pilot_id, job_id, actor.now())
        write(DecisionKind.ADOPT, reason, actor.now(), pilot=pilot_id, inputs=_inputs(job))
    return reason


def reject(actor: Actor, cluster: str, job_id: int, who: str) -> str:
    """Cancel an unknown job, and return what was done, in words. Raises Refused, also where Slurm refuses it, Later."""
    job = _find(actor, cluster, job_id).job
    try:
        actor.client_for(job.way).cancel([job_id])
    except Rejected as error:
        raise Refused(refusals.note(cluster, job_id, job.info.name, error, actor.clock())) from None
    except (NoAnswer, NotOffered) as error:
        raise Later(f"Slurm does not answer: {error}") from None
    reason = f"{who} cancelled job {job_id}, which nothing here knew."
    write(DecisionKind.REJECT, reason, actor.now(), inputs=_inputs(job))
    return reason


def _find(actor: Actor, cluster: str, job_id: int) -> UnknownJob:
    site = actor.site
    if cluster not in site.clusters:
        raise Refused(f"There is no cluster {cluster!r}. There are: {', '.join(site.clusters)}.")
    for found in of(site, cluster, actor.clock()):
        if found.job.info.job_id == job_id:
            return found
    which = f" of {cluster}" if len(site.clusters) > 1 else ""
    raise Refused(f"Slurm's last listing{which} shows no unknown job {job_id} of ours.")


def _profile(site: Site, job: OurJob, name: str) -> Profile:
    """Return a profile by whose way the job was seen: by another one it might not be found again."""
    fitting = Profile.objects.filter(cluster=job.way.cluster).select_related("access")
    if name:
        found = fitting.filter(name=name).first()
        if found is None:
            raise Refused(f"There is no profile {name!r} in cluster {job.way.cluster}.")
        if not _sees(site, site.way_of(found), job):
            raise Refused(
                f"{site.way_of(found).said}, by which profile {name} submits, does not list job {job.info.job_id}."
            )
        return found
    candidates = [
        profile
        for profile in fitting.filter(partition=job.info.partition)
        if _sees(site, site.way_of(profile), job)
    ]
    if len(candidates) != 1:
        raise Refused(
            f"{'Several profiles use' if candidates else 'No profile uses'} partition {job.info.partition}: "
            "name the one that the job was submitted under."
        )
    return candidates[0]


def _nodes(job: OurJob, profile: Profile) -> int:
    """Return how many nodes it has, or asked for. What would be placed on a wrong number of them could not start."""
    count = job.info.node_count
    if count is None and profile.nodes == 1:
        return 1
    if count is None:
        raise Refused(
            f"Slurm's listing does not say how many nodes job {job.info.job_id} has, and jobs of {profile.name} have "
            f"up to {profile.nodes}: try again after the next listing, or reject it."
        )
    if count > profile.nodes:
        raise Refused(
            f"Job {job.info.job_id} has {count} nodes, and jobs of {profile.name} have {profile.nodes} at most: name the "
            "profile that it was submitted under, or reject it."
        )
    return count


def _sees(site: Site, way: Way, job: OurJob) -> bool:
    """Return whether the last listing by this way had the job; one that was never used sees what others of
    its kind and account see."""
    row = site.ways.get(way)
    if row is None or row.answered_at is None:
        return (way.kind, way.prefix, way.user) == (job.way.kind, job.way.prefix, job.way.user)
    return any(info["job_id"] == job.info.job_id for info in row.jobs.get(job.pilot, ()))


def _inputs(job: OurJob) -> Inputs:
    info = job.info
    return {"job": info.job_id, "name": info.name, "state": info.state, "cluster": job.way.cluster}
