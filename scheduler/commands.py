"""Commands → the same decisions that the policies make, or a setting that the next decision heeds.

Operators and pages only write command rows; this is the only reader. A command that Slurm's silence stopped
stays pending and is tried again.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from portal.catalog.models import Pool
from portal.fleet.models import Cluster, Command, Pilot, PilotLog, PilotState, PoolState
from scheduler import endings
from scheduler.act import Actor, carry_out
from scheduler.policy.decisions import CancelPilot, Decision, DrainPilot, DrainReplica
from scheduler.policy.snapshot import ON_ITS_WAY
from scheduler.slurm.protocol import NoAnswer

logger = logging.getLogger(__name__)

LOG_PATIENCE_S = 10.0


class Refused(Exception):
    """The command makes no sense; the text goes back to whoever gave it."""


class Later(Exception):
    """Somebody has not answered yet: the command stays pending."""


def execute(actor: Actor) -> None:
    pending = Command.objects.filter(state=Command.State.PENDING).order_by("created_at", "id")
    for key in list(pending.values_list("pk", flat=True)):
        command = Command.objects.select_related("pilot__profile", "replica", "pool", "created_by").get(
            pk=key
        )
        try:
            result, state = _do(actor, command), Command.State.DONE
        except Refused as refusal:
            result, state = str(refusal), Command.State.REFUSED
        except Later as pause:
            Command.objects.filter(pk=command.pk, state=Command.State.PENDING).update(result=str(pause))
            continue
        logger.info("command %s: %s", command, result)
        Command.objects.filter(pk=command.pk, state=Command.State.PENDING).update(
            state=state, result=result, done_at=actor.now()
        )


def _do(actor: Actor, command: Command) -> str:
    match command.kind:
        case Command.Kind.DRAIN:
            return _drain(actor, command)
        case Command.Kind.CANCEL:
            return _decide(actor, _cancel_of(command))
        case Command.Kind.RELAUNCH:
            return _relaunch(command)
        case Command.Kind.WAKE:
            return _wake(actor, command)
        case Command.Kind.PAUSE:
            return _pause(actor, command, True)
        case Command.Kind.RESUME:
            return _pause(actor, command, False)
        case Command.Kind.LOG:
            return _log(actor, command)
    raise Refused(f"The loop knows no command {command.kind!r}.")


def _drain(actor: Actor, command: Command) -> str:
    why = f"{_who(command)} asked to drain it."
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
        pilot=str(_pilot(command).pk), failed=False, reason=f"{_who(command)} asked to cancel its job."
    )


def _decide(actor: Actor, decision: Decision) -> str:
    if actor.cluster.error and isinstance(decision, CancelPilot):
        raise Later(f"Slurm does not answer: {actor.cluster.error}")
    if not carry_out(actor, decision):
        if actor.cluster.error:
            raise Later(f"Slurm does not answer: {actor.cluster.error}")
        raise Refused("It has moved on: nothing was left to do.")
    return decision.reason


def _relaunch(command: Command) -> str:
    pool = _pool(command)
    PoolState.objects.update_or_create(
        pool=pool, defaults={"failures": 0, "retry_at": None, "latched_at": None, "reason": ""}
    )
    return f"The failures of {pool} are forgotten."


def _wake(actor: Actor, command: Command) -> str:
    pool = _pool(command)
    for_s = float(command.args.get("for_s", pool.keep_alive_s))
    until = actor.now() + timedelta(seconds=for_s)
    PoolState.objects.update_or_create(pool=pool, defaults={"interest_until": until})
    return f"{pool} is wanted until {until:%Y-%m-%d %H:%M} UTC."


def _pause(actor: Actor, command: Command, paused: bool) -> str:
    word = "starts nothing" if paused else "starts what is needed"
    if command.pool is not None:
        Pool.objects.filter(pk=command.pool.pk).update(paused=paused)
        return f"{command.pool} {word} from now on."
    Cluster.objects.filter(pk=actor.cluster.pk).update(paused=paused)
    actor.cluster.paused = paused
    return f"The fleet {word} from now on."


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
        length = endings.keep_log(pilot, actor.client_for, actor.config, actor.clock())
    except NoAnswer as error:
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


def _who(command: Command) -> str:
    return command.created_by.get_username() if command.created_by is not None else "Someone"
