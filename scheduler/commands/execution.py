"""Commands → the same decisions that the policies make, or a setting that the next decision heeds.

Operators and pages only write command rows; this is the only reader. A command that Slurm's silence stopped
stays pending and is tried again.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from portal.catalog.models import Pool, Profile
from portal.db.transaction import moving
from portal.fleet.models import Cluster, Command, Pilot, PilotLog, PoolState, ProfileState, Replica
from portal.fleet.models import Decision as DecisionRow
from portal.fleet.states import ON_ITS_WAY, REPLICA_ENDED, PilotState, ReplicaState
from portal.fleet.times import FOR_EVER, until
from scheduler.act import endings, refusals
from scheduler.act.deeds import carry_out
from scheduler.act.submission import Actor
from scheduler.commands.inspections import inspect
from scheduler.commands.outcomes import Failed, Later, Refused
from scheduler.commands.trials import Look, try_out
from scheduler.observe import unknown_jobs
from scheduler.policy.decisions import CancelPilot, Decision, DrainPilot, DrainReplica
from scheduler.slurm.protocol import NoAnswer, NotOffered

logger = logging.getLogger(__name__)

LOG_PATIENCE_S = 10.0


def execute(actor: Actor, look: Look) -> None:
    """`look` makes the snapshot that the policies would see now, for the commands that ask them."""
    pending = Command.objects.filter(state=Command.State.PENDING).order_by("created_at", "id")
    for key in list(pending.values_list("pk", flat=True)):
        command = Command.objects.select_related(
            "pilot__profile__access", "replica", "pool", "created_by"
        ).get(pk=key)
        try:
            result, state = _do(actor, command, look), Command.State.DONE
        except Refused as refusal:
            result, state = str(refusal), Command.State.REFUSED
        except Failed as failure:
            result, state = str(failure), Command.State.FAILED
        except Later as pause:
            Command.objects.filter(pk=command.pk, state=Command.State.PENDING).update(result=str(pause))
            continue
        logger.info("command %s: %s", command, result)
        Command.objects.filter(pk=command.pk, state=Command.State.PENDING).update(
            state=state, result=result, done_at=actor.now()
        )


def _do(actor: Actor, command: Command, look: Look) -> str:
    match command.kind:
        case Command.Kind.DRAIN:
            return _drain(actor, command)
        case Command.Kind.CANCEL:
            return _decide(actor, _cancel_of(command))
        case Command.Kind.EVICT:
            return _evict(actor, command)
        case Command.Kind.RELAUNCH:
            return _relaunch(actor, command)
        case Command.Kind.TEST_LAUNCH:
            return try_out(actor, command, _pool(command), command.asked_by, look)
        case Command.Kind.WAKE:
            return _wake(actor, command)
        case Command.Kind.PIN:
            return _pin(actor, command)
        case Command.Kind.UNPIN:
            return _unpin(actor, command)
        case Command.Kind.PAUSE:
            return _pause(actor, command, True)
        case Command.Kind.RESUME:
            return _pause(actor, command, False)
        case Command.Kind.ADOPT | Command.Kind.REJECT:
            return _unknown_job(actor, command)
        case Command.Kind.LOG:
            return _log(actor, command)
        case Command.Kind.INSPECT:
            return inspect(actor, command)
    raise Refused(f"The loop knows no command {command.kind!r}.")


def _drain(actor: Actor, command: Command) -> str:
    why = f"{command.asked_by} asked to drain it."
    if command.replica is not None:
        replica = command.replica
        return _decide(
            actor,
            DrainReplica(
                pool=replica.pool_id, pilot=str(replica.pilot_id), replica=str(replica.pk), reason=why
            ),
        )
    pilot = _pilot(command)
    if pilot.state in ON_ITS_WAY:
        return _decide(actor, _cancel_of(command))
    return _decide(actor, DrainPilot(pilot=str(pilot.pk), reason=why))


def _cancel_of(command: Command) -> CancelPilot:
    return CancelPilot(
        pilot=str(_pilot(command).pk), failed=False, reason=f"{command.asked_by} asked to cancel its job."
    )


def _decide(actor: Actor, decision: Decision) -> str:
    if isinstance(decision, CancelPilot):
        _heard(actor, decision)
    if not carry_out(actor, decision, insist=True):
        if isinstance(decision, CancelPilot):
            _heard(actor, decision)
            _allowed(decision)
        raise Refused("It has moved on: nothing was left to do.")
    return decision.reason


def _heard(actor: Actor, decision: CancelPilot) -> None:
    """Raises Later while the way to the pilot's job is silent."""
    pilot = Pilot.objects.select_related("profile__access").get(pk=decision.pilot)
    way = actor.site.way_of(pilot.profile)
    if error := actor.site.error(way):
        raise Later(f"{actor.site.word(way)} does not answer: {error}")


def _allowed(decision: CancelPilot) -> None:
    """Raises Refused where it was Slurm that refused."""
    pilot = Pilot.objects.exclude(state=PilotState.ENDED).filter(pk=decision.pilot).first()
    said = pilot and refusals.reason(pilot.cluster, pilot.job_id or 0, pilot.job_name)
    if said:
        raise Refused(said)


def _evict(actor: Actor, command: Command) -> str:
    """Every replica of the pool drains: what runs in it finishes, or goes back to the queue at the drain limit."""
    pool = _pool(command)
    state = PoolState.objects.filter(pool=pool).first()
    if state is not None and state.pinned_until is not None and state.pinned_until > actor.now():
        raise Refused(f"{pool} is pinned {until(state.pinned_until)}: give the command unpin first.")
    PoolState.objects.filter(pool=pool).update(interest_until=None)
    reason = f"{command.asked_by} asked to evict {pool}."
    live = Replica.objects.filter(pool=pool).exclude(state__in=(*REPLICA_ENDED, ReplicaState.DRAINING))
    drains = [
        DrainReplica(pool=pool.name, pilot=str(replica.pilot_id), replica=str(replica.pk), reason=reason)
        for replica in live.order_by("wanted_at")
    ]
    gone = sum(carry_out(actor, drain) for drain in drains)
    if not gone:
        raise Refused(f"No replica of {pool} was left to drain.")
    replicas = "1 replica drains" if gone == 1 else f"{gone} replicas drain"
    if pool.min_replicas:
        return f"{reason} {replicas}. At least {pool.min_replicas} is to be kept ready: pause it to keep it away."
    return f"{reason} {replicas}. The next request starts it again: pause it to keep it away."


def _relaunch(actor: Actor, command: Command) -> str:
    if name := command.args.get("profile"):
        profile = Profile.objects.filter(name=name).first()
        if profile is None:
            raise Refused(f"There is no profile {name!r}.")
        result = f"Jobs are submitted under profile {name} again."
        with moving():
            ProfileState.objects.filter(profile=profile).update(latched_at=None, reason="")
            _note(actor, command, f"{command.asked_by} asked for it: {result}", profile=str(name))
        return result
    pool = _pool(command)
    result = f"The failures of {pool} are forgotten."
    with moving():
        PoolState.objects.update_or_create(
            pool=pool, defaults={"failures": 0, "retry_at": None, "latched_at": None, "reason": ""}
        )
        _note(actor, command, f"{command.asked_by} asked to try again: {result}")
    return _with_caveat(result, pool)


def _wake(actor: Actor, command: Command) -> str:
    pool = _pool(command)
    for_s = float(command.args.get("for_s", pool.keep_alive_s))
    wanted_until = actor.now() + timedelta(seconds=for_s)
    with moving():
        PoolState.objects.update_or_create(pool=pool, defaults={"interest_until": wanted_until})
        _note(actor, command, f"{command.asked_by} asked to have {pool} ready.", for_s=for_s)
    return _with_caveat(f"{pool} is wanted {until(wanted_until)}.", pool)


def _pin(actor: Actor, command: Command) -> str:
    pool = _pool(command)
    for_s = command.args.get("for_s")
    pinned_until = FOR_EVER if for_s is None else actor.now() + timedelta(seconds=float(for_s))
    result = f"{pool} is kept resident {until(pinned_until)}."
    with moving():
        PoolState.objects.update_or_create(pool=pool, defaults={"pinned_until": pinned_until})
        _note(actor, command, f"{command.asked_by} pinned it: {result}", for_s=for_s)
    return _with_caveat(result, pool)


def _unpin(actor: Actor, command: Command) -> str:
    pool = _pool(command)
    pinned = PoolState.objects.filter(pool=pool, pinned_until__gt=actor.now())
    with moving():
        if not pinned.update(pinned_until=None):
            raise Refused(f"{pool} was not pinned.")
        _note(actor, command, f"{command.asked_by} ended the pin of {pool}.")
    return f"{pool} is not pinned any more: it is let go after its keep-alive, or for others."


def _pause(actor: Actor, command: Command, paused: bool) -> str:
    word = "starts nothing" if paused else "starts what is needed"
    with moving():
        if command.pool is not None:
            Pool.objects.filter(pk=command.pool.pk).update(paused=paused)
            result = f"{command.pool} {word} from now on."
        else:
            names = [_cluster(actor, command)] if command.args.get("cluster") else [*actor.site.clusters]
            Cluster.objects.filter(pk__in=names).update(paused=paused)
            for name in names:
                actor.site.clusters[name].paused = paused
            whole = len(names) == len(actor.site.clusters)
            result = f"{'The fleet' if whole else f'Cluster {names[0]}'} {word} from now on."
        _note(actor, command, f"{command.asked_by} asked for it: {result}")
    return result


def _unknown_job(actor: Actor, command: Command) -> str:
    job_id = command.args.get("job_id")
    if not isinstance(job_id, int):
        raise Refused("It names no job.")
    now, who, cluster = actor.clock(), command.asked_by, _of_job(actor, command, job_id)
    try:
        if command.kind == Command.Kind.REJECT:
            return unknown_jobs.reject(actor.site, cluster, actor.client_for, job_id, who, now)
        profile = str(command.args.get("profile") or "")
        return unknown_jobs.adopt(actor.site, cluster, actor.config, job_id, profile, who, now)
    except unknown_jobs.Impossible as error:
        raise Refused(str(error)) from None
    except (NoAnswer, NotOffered) as error:
        raise Later(f"Slurm does not answer: {error}") from None


def _of_job(actor: Actor, command: Command, job_id: int) -> str:
    """The cluster that is named, else the only one that has such an unknown job: a number means a job within one."""
    if command.args.get("cluster"):
        return _cluster(actor, command)
    having = [name for name, row in actor.site.clusters.items() if str(job_id) in row.orphans]
    if len(having) > 1:
        raise Refused(f"Clusters {' and '.join(having)} both have an unknown job {job_id}: name the cluster.")
    return having[0] if having else actor.config.cluster


def _cluster(actor: Actor, command: Command) -> str:
    name = str(command.args.get("cluster"))
    if name not in actor.site.clusters:
        raise Refused(f"There is no cluster {name!r}; there are: {', '.join(actor.site.clusters)}.")
    return name


def _log(actor: Actor, command: Command) -> str:
    """From the agent, which sees its job's log wherever the node keeps it; else from the spool."""
    pilot = _pilot(command)
    kept = PilotLog.objects.filter(pilot=pilot).first()
    if kept is not None and kept.at >= command.created_at:
        return f"{len(kept.text)} characters of the log came from the agent."
    waited_s = actor.clock() - command.created_at.timestamp()
    if pilot.state in (PilotState.UP, PilotState.DRAINING) and waited_s < LOG_PATIENCE_S:
        raise Later("The agent has been asked.")
    try:
        client = actor.client_for(actor.site.way_of(pilot.profile))
        length = endings.keep_log(pilot, client, actor.config, actor.clock())
    except (NoAnswer, NotOffered) as error:
        raise Refused(f"The log could not be read: {error}") from None
    return f"{length} characters of the log were read from the spool."


def _pilot(command: Command) -> Pilot:
    if command.pilot is None:
        raise Refused("It names no pilot.")
    if command.pilot.state == PilotState.ENDED and command.kind != Command.Kind.LOG:
        raise Refused("The pilot has ended already.")
    return command.pilot


def _pool(command: Command) -> Pool:
    if command.pool is None:
        raise Refused("It names no pool.")
    return command.pool


def _with_caveat(result: str, pool: Pool) -> str:
    """What will keep it from being started all the same, with the next step."""
    if pool.paused:
        return f"{result} It is paused: nothing is started for it before the command resume."
    latched = PoolState.objects.filter(pool=pool, latched_at__isnull=False).values_list("reason", flat=True)
    if (reason := latched.first()) is not None:
        return f"{result} It is latched, and nothing is started before the command relaunch: {reason}"
    return result


def _note(actor: Actor, command: Command, reason: str, **inputs: str | float | None) -> None:
    """The decision row of a command that moves nothing by itself, so that the story of a model is whole."""
    DecisionRow.objects.create(
        at=actor.now(),
        kind=command.kind,
        pool=command.pool_id or "",
        reason=reason,
        inputs={"command": command.pk, **inputs},
    )
