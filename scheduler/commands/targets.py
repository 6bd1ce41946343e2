"""The pilot, pool or cluster that a command names. Raises Refused where it names none, or one that is gone."""

from __future__ import annotations

from portal.catalog.models import Pool
from portal.fleet.models import Command, Pilot
from portal.fleet.states import PilotState
from scheduler.act.actor import Actor
from scheduler.commands.outcomes import Refused


def pilot_of(command: Command) -> Pilot:
    """Return the pilot that the command names. One that has ended has nothing but its log."""
    if command.pilot is None:
        raise Refused("It names no pilot.")
    if command.pilot.state == PilotState.ENDED and command.kind != Command.Kind.LOG:
        raise Refused("The pilot has ended already.")
    return command.pilot


def pool_of(command: Command) -> Pool:
    """Return the pool that the command names."""
    if command.pool is None:
        raise Refused("It names no pool.")
    return command.pool


def cluster_of(actor: Actor, command: Command) -> str:
    """Return the name of the cluster that the command names, where this loop knows it."""
    name = str(command.args.get("cluster"))
    if name not in actor.site.clusters:
        raise Refused(f"There is no cluster {name!r}; there are: {', '.join(actor.site.clusters)}.")
    return name
