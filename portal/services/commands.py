"""A person's wish to change the fleet → a row in the table of commands, which the control loop carries out.

Shared by API, admin and pages, so that one place knows which command takes which target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from portal.accounts.models import User
from portal.catalog.models import Pool
from portal.fleet.models import Command, Pilot, Replica
from portal.fleet.states import PilotState, ReplicaState
from portal.redis import hints
from portal.services import targets

Kind = Command.Kind
# Each command's allowed targets; "fleet" is none at all.
TARGETS: dict[str, tuple[str, ...]] = {
    Kind.DRAIN: ("pilot", "replica"),
    Kind.CANCEL: ("pilot",),
    Kind.EVICT: ("pool",),
    Kind.RELAUNCH: ("pool", "profile"),
    Kind.TEST_LAUNCH: ("pool",),
    Kind.WAKE: ("pool",),
    Kind.PIN: ("pool",),
    Kind.UNPIN: ("pool",),
    Kind.PAUSE: ("pool", "fleet"),
    Kind.RESUME: ("pool", "fleet"),
    Kind.ADOPT: ("job_id",),
    Kind.REJECT: ("job_id",),
    Kind.LOG: ("pilot",),
    Kind.INSPECT: ("candidate",),
}
_WORDS = {
    "fleet": "nothing (the whole fleet, or args.cluster)",
    "profile": "args.profile",
    "job_id": "args.job_id",
    "candidate": "args.candidate",
}
MOST_S = 366 * 86_400.0


def seconds(value: Any) -> float:
    """Read a length of time, in seconds, that a command may ask for."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= MOST_S:
        raise ValidationError("for_s must be a number of seconds, more than 0 and at most a year.")
    return float(value)


def _profile(value: Any) -> str:
    return targets.profile(str(value)).name


def _job(value: Any) -> int:
    return targets.unknown_job(str(value))


def _cluster(value: Any) -> str:
    return targets.cluster(str(value))


def _candidate(value: Any) -> int:
    return targets.candidate(str(value)).pk


# What else each command takes.
ARGS: dict[str, dict[str, Callable[[Any], Any]]] = {
    Kind.WAKE: {"for_s": seconds},
    Kind.PIN: {"for_s": seconds},
    Kind.RELAUNCH: {"profile": _profile},
    Kind.ADOPT: {"job_id": _job, "profile": _profile, "cluster": _cluster},
    Kind.REJECT: {"job_id": _job, "cluster": _cluster},
    Kind.PAUSE: {"cluster": _cluster},
    Kind.RESUME: {"cluster": _cluster},
    Kind.INSPECT: {"candidate": _candidate},
}


@dataclass(frozen=True, slots=True)
class NewCommand:
    """A command to be written, with at most one target; none means the fleet.

    Profiles and jobs that no row knows are named in `args`.
    """

    kind: str
    pilot: Pilot | None = None
    replica: Replica | None = None
    pool: Pool | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


def give(wish: NewCommand, by: User | str) -> Command:
    """Write the command, or return the same one if it still waits. Raise ValidationError.

    `by` is an account, or the words for somebody without one.
    """
    args = _checked(wish)
    user = by if isinstance(by, User) else None
    if user is None:
        args["by"] = str(by)
    target: dict[str, Any] = {"pilot": wish.pilot, "replica": wish.replica, "pool": wish.pool, "args": args}
    with transaction.atomic():
        waiting = Command.objects.filter(kind=wish.kind, state=Command.State.PENDING, **target).first()
        command = waiting or Command.objects.create(kind=wish.kind, created_by=user, **target)
        transaction.on_commit(hints.tick_soon)
    return command


def _checked(wish: NewCommand) -> dict[str, Any]:
    """Return the wish's arguments as they are stored. Raise ValidationError."""
    if wish.kind not in TARGETS:
        raise ValidationError({"kind": f"A command must be one of: {', '.join(TARGETS)}."})
    args = _arguments(wish)
    allowed = TARGETS[wish.kind]
    named = [name for name in ("pilot", "replica", "pool") if getattr(wish, name) is not None]
    # A profile is a target only where it may be one; else it says how.
    given = named + [
        name for name in ("profile", "job_id", "candidate") if name in args and name in allowed
    ] or ["fleet"]
    if "cluster" in args and wish.pool is not None:
        raise ValidationError({"args": f"'{wish.kind}' takes a model or a cluster, not both."})
    if "job_id" in args and not args.get("cluster"):
        targets.only_cluster(args["job_id"])
    if len(given) != 1 or given[0] not in allowed:
        words = " or ".join(_WORDS.get(name, name) for name in allowed)
        raise ValidationError({"kind": f"'{wish.kind}' takes exactly one target: {words}."})
    if wish.pilot is not None and wish.pilot.state == PilotState.ENDED and wish.kind != Kind.LOG:
        raise ValidationError({"pilot": f"This pilot has ended: {wish.pilot.end_reason}"})
    if wish.replica is not None and wish.replica.state in (ReplicaState.STOPPED, ReplicaState.FAILED):
        raise ValidationError({"replica": f"This replica has ended: {wish.replica.end_reason}"})
    return args


def _arguments(wish: NewCommand) -> dict[str, Any]:
    known = ARGS.get(wish.kind, {})
    if strange := sorted(set(wish.args) - set(known)):
        takes = f"takes only: {', '.join(known)}" if known else "takes none"
        raise ValidationError({"args": f"'{wish.kind}' has no argument '{strange[0]}'; it {takes}."})
    checked = {}
    for name, value in wish.args.items():
        try:
            checked[name] = known[name](value)
        except ValidationError as error:
            raise ValidationError({"args": error.messages}) from None
    return checked
