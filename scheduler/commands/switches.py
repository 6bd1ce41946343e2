"""The commands relaunch, wake, pin, unpin, pause and resume: settings that the next decision heeds.

Each function returns what was done, in words, and raises Refused.
"""

from __future__ import annotations

from datetime import timedelta

from portal.catalog.models import Pool, Profile
from portal.db.transaction import moving
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Cluster, Command, PoolState, ProfileState
from portal.fleet.times import FOR_EVER, until
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write
from scheduler.commands.outcomes import Refused
from scheduler.commands.targets import cluster_of, pool_of


def relaunch(actor: Actor, command: Command) -> str:
    """Forget the failures of a pool, or the latch of a profile."""
    if name := command.args.get("profile"):
        profile = Profile.objects.filter(name=name).first()
        if profile is None:
            raise Refused(f"There is no profile {name!r}.")
        result = f"Jobs are submitted under profile {name} again."
        with moving():
            ProfileState.objects.filter(profile=profile).update(latched_at=None, reason="")
            _note(actor, command, f"{command.asked_by} asked for it: {result}", profile=str(name))
        return result
    pool = pool_of(command)
    result = f"The failures of {pool} are forgotten."
    with moving():
        PoolState.objects.update_or_create(
            pool=pool, defaults={"failures": 0, "retry_at": None, "latched_at": None, "reason": ""}
        )
        _note(actor, command, f"{command.asked_by} asked to try again: {result}")
    return _with_caveat(result, pool)


def wake(actor: Actor, command: Command) -> str:
    """Keep a pool wanted for a while, as if somebody waited for it."""
    pool = pool_of(command)
    for_s = float(command.args.get("for_s", pool.keep_alive_s))
    wanted_until = actor.now() + timedelta(seconds=for_s)
    with moving():
        PoolState.objects.update_or_create(pool=pool, defaults={"interest_until": wanted_until})
        _note(actor, command, f"{command.asked_by} asked to have {pool} ready.", for_s=for_s)
    return _with_caveat(f"{pool} is wanted {until(wanted_until)}.", pool)


def pin(actor: Actor, command: Command) -> str:
    """Keep a pool resident, for a while or until it is unpinned."""
    pool = pool_of(command)
    for_s = command.args.get("for_s")
    pinned_until = FOR_EVER if for_s is None else actor.now() + timedelta(seconds=float(for_s))
    result = f"{pool} is kept resident {until(pinned_until)}."
    with moving():
        PoolState.objects.update_or_create(pool=pool, defaults={"pinned_until": pinned_until})
        _note(actor, command, f"{command.asked_by} pinned it: {result}", for_s=for_s)
    return _with_caveat(result, pool)


def unpin(actor: Actor, command: Command) -> str:
    """End the pin of a pool."""
    pool = pool_of(command)
    pinned = PoolState.objects.filter(pool=pool, pinned_until__gt=actor.now())
    with moving():
        if not pinned.update(pinned_until=None):
            raise Refused(f"{pool} was not pinned.")
        _note(actor, command, f"{command.asked_by} ended the pin of {pool}.")
    return f"{pool} is not pinned any more: it is let go after its keep-alive, or for others."


def pause(actor: Actor, command: Command, paused: bool) -> str:
    """Pause a pool, a cluster or the whole fleet; resume it where `paused` is False."""
    effect = "starts nothing" if paused else "starts what is needed"
    with moving():
        if command.pool is not None:
            Pool.objects.filter(pk=command.pool.pk).update(paused=paused)
            result = f"{command.pool} {effect} from now on."
        else:
            names = [cluster_of(actor, command)] if command.args.get("cluster") else [*actor.site.clusters]
            Cluster.objects.filter(pk__in=names).update(paused=paused)
            for name in names:
                actor.site.clusters[name].paused = paused
            whole = len(names) == len(actor.site.clusters)
            result = f"{'The fleet' if whole else f'Cluster {names[0]}'} {effect} from now on."
        _note(actor, command, f"{command.asked_by} asked for it: {result}")
    return result


def _with_caveat(result: str, pool: Pool) -> str:
    """Return the result with what will keep the pool from being started all the same, and the next step."""
    if pool.paused:
        return f"{result} It is paused: nothing is started for it before the command resume."
    latched = PoolState.objects.filter(pool=pool, latched_at__isnull=False).values_list("reason", flat=True)
    if (reason := latched.first()) is not None:
        return f"{result} It is latched, and nothing is started before the command relaunch: {reason}"
    return result


def _note(actor: Actor, command: Command, reason: str, **inputs: str | float | None) -> None:
    """Write the decision row of a command that moves nothing by itself, so that the history of a model is whole."""
    write(
        DecisionKind(command.kind),
        reason,
        actor.now(),
        pool=command.pool_id or "",
        inputs={"command": command.pk, **inputs},
    )
