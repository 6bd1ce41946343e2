"""A person's wish to change the fleet → a row in the table of commands, which the control loop carries out.

Shared by API, admin and pages, so that one place knows which command takes which target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from portal import hints
from portal.accounts.models import User
from portal.catalog.models import Pool
from portal.fleet.models import Command, Pilot, PilotState, Replica, ReplicaState

Kind = Command.Kind
# Each command's allowed targets; "fleet" is none at all.
TARGETS: dict[str, tuple[str, ...]] = {
    Kind.DRAIN: ("pilot", "replica"),
    Kind.CANCEL: ("pilot",),
    Kind.RELAUNCH: ("pool",),
    Kind.WAKE: ("pool",),
    Kind.PAUSE: ("pool", "fleet"),
    Kind.RESUME: ("pool", "fleet"),
    Kind.LOG: ("pilot",),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """At most one target; none means the fleet."""

    kind: str
    pilot: Pilot | None = None
    replica: Replica | None = None
    pool: Pool | None = None


def give(wish: Wish, by: User) -> Command:
    """Writes the command, or answers the same one if it still waits. Raises ValidationError."""
    _check(wish)
    target: dict[str, Any] = {"pilot": wish.pilot, "replica": wish.replica, "pool": wish.pool}
    with transaction.atomic():
        waiting = Command.objects.filter(kind=wish.kind, state=Command.State.PENDING, **target).first()
        command = waiting or Command.objects.create(kind=wish.kind, created_by=by, **target)
        transaction.on_commit(hints.tick_soon)
    return command


def _check(wish: Wish) -> None:
    if wish.kind not in TARGETS:
        raise ValidationError({"kind": f"A command is one of: {', '.join(TARGETS)}."})
    given = [name for name in ("pilot", "replica", "pool") if getattr(wish, name) is not None] or ["fleet"]
    allowed = TARGETS[wish.kind]
    if len(given) != 1 or given[0] not in allowed:
        words = " or ".join("nothing (the whole fleet)" if name == "fleet" else name for name in allowed)
        raise ValidationError({"kind": f"'{wish.kind}' takes exactly one target: {words}."})
    if wish.pilot is not None and wish.pilot.state == PilotState.ENDED and wish.kind != Kind.LOG:
        raise ValidationError({"pilot": f"This pilot has ended: {wish.pilot.end_reason}"})
    if wish.replica is not None and wish.replica.state in (ReplicaState.STOPPED, ReplicaState.FAILED):
        raise ValidationError({"replica": f"This replica has ended: {wish.replica.end_reason}"})
