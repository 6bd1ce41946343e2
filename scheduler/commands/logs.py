"""The command log: the end of a job's log comes to the portal, from its agent or from the spool."""

from __future__ import annotations

from portal.fleet.models import Command, PilotLog
from portal.fleet.states import PilotState
from scheduler.act.actor import Actor
from scheduler.act.endings import keep_log
from scheduler.commands.outcomes import Later, Refused
from scheduler.commands.targets import pilot_of
from scheduler.slurm.protocol import NoAnswer, NotOffered

LOG_PATIENCE_S = 10.0


def fetch(actor: Actor, command: Command) -> str:
    """Fetch the end of the log of a pilot, and return how long it is: from the agent, which sees its job's log wherever
    the node keeps it; else from the spool. Raises Later, Refused."""
    pilot = pilot_of(command)
    stored = PilotLog.objects.filter(pilot=pilot).first()
    if stored is not None and stored.at >= command.created_at:
        return f"{len(stored.text)} characters of the log came from the agent."
    waited_s = actor.clock() - command.created_at.timestamp()
    if pilot.state in (PilotState.UP, PilotState.DRAINING) and waited_s < LOG_PATIENCE_S:
        raise Later("The agent has been asked.")
    try:
        client = actor.client_for(actor.site.way_of(pilot.profile))
        length = keep_log(pilot, client, actor.config, actor.now())
    except (NoAnswer, NotOffered) as error:
        raise Refused(f"The log could not be read: {error}") from None
    return f"{length} characters of the log were read from the spool."
