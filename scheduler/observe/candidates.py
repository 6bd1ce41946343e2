"""Candidates of the catalog whose folders an agent looks at → the pilots that are kept for that."""

from __future__ import annotations

from uuid import UUID

from portal.fleet.models import Candidate, Command


def looked_at_by() -> set[UUID]:
    """Return the pilots that are not idle although they host nothing: a command waits for what they find."""
    waiting = Command.objects.filter(kind=Command.Kind.INSPECT, state=Command.State.PENDING)
    numbers = [args.get("candidate") for args in waiting.values_list("args", flat=True)]
    if not numbers:
        return set()
    rows = Candidate.objects.filter(pk__in=numbers, found_at=None, pilot__isnull=False)
    return {id_ for id_ in rows.values_list("pilot_id", flat=True) if id_ is not None}
