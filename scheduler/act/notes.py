"""Silences of agents and of ways to Slurm → one decision row when each begins and one when it ends.

Separate, because that there is a row has to be stored with it: a tick that dies in between leaves it to a later one, and
none writes it twice.
"""

from __future__ import annotations

import logging
from uuid import UUID

import redis as redis_library

from portal.db.transaction import moving
from portal.fleet.models import WayState
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.observe import silence
from scheduler.observe.ways import silence_notes
from scheduler.policy.consequences import NotePilotHeard, NotePilotSilent, NoteWayAnswers, NoteWaySilent
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)


def no_answer(actor: Actor, way: Way, error: str) -> None:
    """Hold what is reached by a way that did not answer a verb, and tell of its silence."""
    actor.site.silence(way, error)
    for decision in silence_notes(actor.site):
        note_way(actor, decision)


def note_way(actor: Actor, decision: NoteWaySilent | NoteWayAnswers) -> bool:
    """Write the row of a silence of Slurm, or of its end. Return whether it was still to be written."""
    silent = isinstance(decision, NoteWaySilent)
    way = actor.site.named(decision.cluster, decision.way)
    row = actor.site.ways.get(way) if way is not None else None
    if row is None:
        return False
    with moving():
        noted = WayState.objects.filter(pk=row.pk, silence_noted=not silent).update(silence_noted=silent)
        if noted:
            write_decided(decision, actor.now())
    row.silence_noted = silent
    return bool(noted)


def note_pilot(actor: Actor, decision: NotePilotSilent | NotePilotHeard) -> bool:
    """Write the row of an agent's silence, or of its end, and mark it as told."""
    write_decided(decision, actor.now(), pilot=UUID(decision.pilot))
    try:
        silence.mark_noted(actor.redis, decision.pilot, isinstance(decision, NotePilotSilent))
    except redis_library.RedisError as error:
        logger.warning("Redis did not answer; pilot %s may be told of twice: %s", decision.pilot, error)
    return True
