"""The commands drain, cancel and evict: a person lets pilots and replicas go, by the decisions that the policies make,
too.

Each function returns what was done, in words, and raises Refused or Later.
"""

from __future__ import annotations

from portal.fleet.models import Command, Pilot, PoolState, Replica
from portal.fleet.states import ON_ITS_WAY, REPLICA_ENDED, PilotState, ReplicaState
from portal.fleet.times import until
from scheduler.act import refusals
from scheduler.act.actor import Actor
from scheduler.act.dispatch import carry_out
from scheduler.commands.outcomes import Later, Refused
from scheduler.commands.targets import pilot_of, pool_of
from scheduler.policy.decisions import CancelPilot, Decision, DrainPilot, DrainReplica


def drain(actor: Actor, command: Command) -> str:
    """Drain a replica, or a pilot; a pilot whose job does not run yet is cancelled."""
    why = f"{command.asked_by} asked to drain it."
    if command.replica is not None:
        replica = command.replica
        return _decide(
            actor,
            DrainReplica(
                pool=replica.pool_id, pilot=str(replica.pilot_id), replica=str(replica.pk), reason=why
            ),
        )
    pilot = pilot_of(command)
    if pilot.state in ON_ITS_WAY:
        return _decide(actor, _cancel_of(command))
    return _decide(actor, DrainPilot(pilot=str(pilot.pk), reason=why))


def cancel(actor: Actor, command: Command) -> str:
    """Cancel a pilot's job at once."""
    return _decide(actor, _cancel_of(command))


def _cancel_of(command: Command) -> CancelPilot:
    return CancelPilot(
        pilot=str(pilot_of(command).pk), failed=False, reason=f"{command.asked_by} asked to cancel its job."
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
    """Raise Later while the way to the pilot's job is silent."""
    pilot = Pilot.objects.select_related("profile__access").get(pk=decision.pilot)
    way = actor.site.way_of(pilot.profile)
    if error := actor.site.error(way):
        raise Later(f"{actor.site.label(way)} does not answer: {error}")


def _allowed(decision: CancelPilot) -> None:
    """Raise Refused where it was Slurm that refused."""
    pilot = Pilot.objects.exclude(state=PilotState.ENDED).filter(pk=decision.pilot).first()
    refusal = pilot and refusals.reason(pilot.cluster, pilot.job_id or 0, pilot.job_name)
    if refusal:
        raise Refused(refusal)


def evict(actor: Actor, command: Command) -> str:
    """Drain every replica of a pool: what runs in it finishes, or goes back to the queue at the drain limit."""
    pool = pool_of(command)
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
