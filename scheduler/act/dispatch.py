"""Decisions and consequences → the functions that carry them out.

The intent is committed before Slurm is asked (invariant 2); what a decision moves and the row that says why stand in one
transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from django.db import IntegrityError

from scheduler.act import endings, holds, launches, notes, pilots, replicas, submission, unknown_jobs
from scheduler.act.actor import Actor
from scheduler.policy import consequences as seen
from scheduler.policy import decisions as decided
from scheduler.policy.consequences import Consequence
from scheduler.policy.decisions import Decided, Decision

logger = logging.getLogger(__name__)


def act(actor: Actor, todo: Iterable[Decision | Consequence]) -> None:
    """Carry out all of them, in their order. One that the database refuses was overtaken, and keeps no other back."""
    for one in todo:
        try:
            done = _carry_out(actor, one, insist=False)
        except IntegrityError as error:
            # The database knows better than the snapshot, e.g. a GPU has been taken. The next tick looks again.
            logger.warning("%s was overtaken: %s", type(one).__name__, error)
            continue
        if done and isinstance(one, Decided):
            loud = isinstance(one, (seen.PauseCluster, seen.CancelUnknownJob, seen.NotePilotSilent))
            logger.log(logging.WARNING if loud else logging.INFO, "%s: %s", one.kind, one.reason)
    endings.clean_up(actor)


def carry_out(actor: Actor, decision: Decision, *, insist: bool = False) -> bool:
    """Carry out one decision. Return False when it came too late, or Slurm did not answer or refused. Raises
    IntegrityError where the database refuses it. `insist`: a person asked, so what Slurm refused lately is asked for
    once more, and pauses and latches do not count."""
    return _carry_out(actor, decision, insist=insist)


def _carry_out(actor: Actor, todo: Decision | Consequence, *, insist: bool) -> bool:
    match todo:
        case decided.LaunchPilot():
            return launches.launch(actor, todo, insist=insist)
        case decided.PlaceReplica():
            return replicas.place(actor, todo)
        case decided.DrainReplica():
            return replicas.drain(actor, todo)
        case decided.WakeReplica():
            return replicas.wake(actor, todo)
        case decided.StageWeights():
            return replicas.stage(actor, todo)
        case decided.DrainPilot():
            return pilots.drain(actor, todo)
        case decided.CancelPilot():
            return pilots.cancel(actor, todo, insist=insist)
        case decided.HoldPool():
            return holds.hold_pool(actor, todo)
        case decided.HoldProfile():
            return holds.hold_profile(actor, todo)
    return _follow(actor, todo)


def _follow(actor: Actor, todo: Consequence) -> bool:
    match todo:
        case seen.NoteWaySilent() | seen.NoteWayAnswers():
            return notes.note_way(actor, todo)
        case seen.NotePilotSilent() | seen.NotePilotHeard():
            return notes.note_pilot(actor, todo)
        case seen.PauseCluster():
            return holds.pause_cluster(actor, todo)
        case seen.AdoptJob():
            return pilots.adopt(actor, todo)
        case seen.FollowJobs():
            return pilots.follow(actor, todo)
        case seen.EndPilot():
            return pilots.end(actor, todo)
        case seen.CancelUnknownJob():
            return unknown_jobs.cancel(actor, todo)
        case seen.ResubmitPilot():
            return submission.resubmit(actor, todo)
        case seen.ExcludeNode():
            return holds.exclude_node(actor, todo)
        case seen.ReadmitNode():
            return holds.readmit_node(actor, todo)
