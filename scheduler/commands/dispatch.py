"""Command rows → what carries them out, and the rows' results.

Operators and pages only write command rows; this is the only reader. A command that Slurm's silence stopped
stays pending and is tried again.
"""

from __future__ import annotations

import logging

from portal.fleet.models import Command
from scheduler.act.actor import Actor
from scheduler.commands import departures, logs, switches, unknown_jobs
from scheduler.commands.inspections import inspect
from scheduler.commands.outcomes import Failed, Later, Refused
from scheduler.commands.targets import pool_of
from scheduler.commands.trials import Look, try_out

logger = logging.getLogger(__name__)


def execute(actor: Actor, look: Look) -> None:
    """Carry out every pending command, the oldest first. `look` makes the snapshot that the policies would see now,
    for the commands that ask them."""
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
    """Carry out one command and return what was done, in words. Raises Refused, Failed, Later."""
    match command.kind:
        case Command.Kind.DRAIN:
            return departures.drain(actor, command)
        case Command.Kind.CANCEL:
            return departures.cancel(actor, command)
        case Command.Kind.EVICT:
            return departures.evict(actor, command)
        case Command.Kind.RELAUNCH:
            return switches.relaunch(actor, command)
        case Command.Kind.TEST_LAUNCH:
            return try_out(actor, command, pool_of(command), command.asked_by, look)
        case Command.Kind.WAKE:
            return switches.wake(actor, command)
        case Command.Kind.PIN:
            return switches.pin(actor, command)
        case Command.Kind.UNPIN:
            return switches.unpin(actor, command)
        case Command.Kind.PAUSE:
            return switches.pause(actor, command, True)
        case Command.Kind.RESUME:
            return switches.pause(actor, command, False)
        case Command.Kind.ADOPT | Command.Kind.REJECT:
            return unknown_jobs.decide(actor, command)
        case Command.Kind.LOG:
            return logs.fetch(actor, command)
        case Command.Kind.INSPECT:
            return inspect(actor, command)
    raise Refused(f"The loop knows no command {command.kind!r}.")
