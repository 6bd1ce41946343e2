"""The command test_launch: a model is started once, and the command waits to see whether it becomes ready.

Separate from the other commands because it goes on over many ticks. What it has begun is found again by the decision row
that bears its number, so a restart of the loop starts nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django.db import IntegrityError

from portal.catalog.models import Pool, Profile
from portal.db.transaction import moving
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.explain import explain
from portal.fleet.facts import read_facts
from portal.fleet.models import Command, Decision, PoolState, Replica
from portal.fleet.states import SERVING, ReplicaState
from portal.fleet.times import clock, span
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write
from scheduler.act.dispatch import carry_out
from scheduler.commands.outcomes import Failed, Later, Refused
from scheduler.policy.decisions import LaunchPilot
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.trial import Start, trial

Look = Callable[[], Snapshot]

ROOM_PATIENCE_S = 900.0  # how long a test waits for room before it says that there is none


def try_out(actor: Actor, command: Command, pool: Pool, who: str, look: Look) -> str:
    """Return what came of it. Raises Later while that is not known, Failed, Refused."""
    begun = _begun(command) or _begin(actor, command, pool, who, look)
    assert begun.replica is not None
    replica = Replica.objects.get(pk=begun.replica)
    if replica.hot_at is not None:
        return f"{pool} works. {_ready(replica, begun, actor)} {_afterwards(pool)}"
    if replica.state == ReplicaState.FAILED:
        raise Failed(f"{pool} did not start: {replica.end_reason}")
    if replica.state in (ReplicaState.STOPPED, ReplicaState.DRAINING):
        raise Failed(f"{pool} was ended before it was ready: {replica.end_reason}")
    raise Later(_progress(pool, actor))


def _begun(command: Command) -> Decision | None:
    own = Decision.objects.filter(inputs__command=command.pk, pool=command.pool_id or "")
    return own.filter(replica__isnull=False).order_by("id").first()


def _begin(actor: Actor, command: Command, pool: Pool, who: str, look: Look) -> Decision:
    reason = f"{who} asked to start {pool} once, to see whether it works."
    if pool.base is None or not pool.base.enabled:
        raise Refused(f"No enabled model belongs to {pool}: enable one first.")
    there = Replica.objects.filter(pool=pool, state__in=SERVING).order_by("hot_at", "wanted_at").first()
    if there is not None:
        there_already = f"{reason} A replica of it is there already, or on its way."
        return write(
            DecisionKind.TEST_LAUNCH, there_already, actor.now(),
            pool=pool.name, pilot=there.pilot_id, replica=there.pk, inputs={"command": command.pk},
        )  # fmt: skip
    start, why = trial(pool.name, look())
    if start is None:
        if actor.clock() - command.created_at.timestamp() > ROOM_PATIENCE_S:
            raise Refused(f"Within {span(ROOM_PATIENCE_S)} there was no room to test {pool}: {why}")
        raise Later(why)
    inputs = {**start.inputs, "command": command.pk}
    try:
        carry_out(actor, replace(start, reason=reason, inputs=inputs), insist=True)
    except IntegrityError:
        raise Later("Its place was taken meanwhile; another is looked for.") from None
    begun = _begun(command)
    if begun is None:
        raise Later(f"It could not be started yet. {_silence(start, actor)}".strip())
    return begun


def _silence(start: Start, actor: Actor) -> str:
    """Return what was heard of the way by which its job would be submitted."""
    if not isinstance(start, LaunchPilot):
        return ""
    profile = Profile.objects.select_related("access").get(name=start.profile)
    return actor.site.error(actor.site.way_of(profile))


def _ready(replica: Replica, begun: Decision, actor: Actor) -> str:
    assert replica.hot_at is not None
    if replica.hot_at <= begun.at:
        return f"It was ready already, since {clock(replica.hot_at.timestamp(), actor.clock())}."
    took = f"It was ready {span((replica.hot_at - begun.at).total_seconds())} after the start"
    if replica.started_at is None:
        return f"{took}."
    return f"{took}, of which loading took {span((replica.hot_at - replica.started_at).total_seconds())}."


def _afterwards(pool: Pool) -> str:
    notes = [f"Unless it is used, it is let go after its keep-alive of {span(pool.keep_alive_s)}."]
    if PoolState.objects.filter(pool=pool, latched_at__isnull=False).exists():
        notes.append("It is still latched: the command relaunch lets requests start it again.")
    if pool.paused:
        notes.append("It is still paused: the command resume lets requests start it again.")
    return " ".join(notes)


def _progress(pool: Pool, actor: Actor) -> str:
    with moving() as cur:
        facts = read_facts(cur, [pool.name])[pool.name]
    return explain(replace(facts, latched_reason=""), actor.clock()).named(pool.name).reason
