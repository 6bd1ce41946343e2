"""The Lua scripts as Redis knows them, and how what they are asked and answer is spelt.

Separate from `slots` because the portal's pages ask the same scripts over connections of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portal.policy.fairshare import Line
from portal.policy.limits import COUNTS, Want

_LUA = Path(__file__).with_name("lua")


class Script:
    """A Lua script with the functions it shares; known to Redis by its hash."""

    def __init__(self, name: str, *parts: str) -> None:
        self.text = b"\n".join((_LUA / f"{part}.lua").read_bytes() for part in ("common", *parts, name))
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


_OF_SLOTS = ("admit", "enqueue", "fill", "release", "renew", "tag", "started", "give_back", "keep")
_OF_LIMITS = ("limit", "settle", "enter", "leave")
SCRIPTS = {name: Script(name) for name in _OF_SLOTS} | {name: Script(name, "limits") for name in _OF_LIMITS}


def prefix(pool: str) -> str:
    """Of a pool's keys. The braces keep them on one node of a Redis cluster."""
    return "berth:{%s}" % pool  # noqa: UP031  (an f-string would need four braces)


def spelt(name: str, keys: str, *args: Any) -> tuple[str | int | float | bytes, ...]:
    """The command that runs a script on the keys with this prefix."""
    return ("EVALSHA", SCRIPTS[name].sha, 1, keys + ":wait", keys, *args)


def tag_arguments(
    lane: str, project: int, share: float, priority: int, request: str, seed: Line | None
) -> list[Any]:
    seeds: list[Any] = []
    if seed is not None:
        seeds = [repr(seed.vtime)]
        for (of, level), finish in seed.finishes.items():
            seeds += [of, level, repr(finish)]
    return [lane, project, repr(share), priority, request, *seeds]


def limit_arguments(request: str, lease_s: float, now: str, wants: Sequence[Want]) -> list[Any]:
    return [request, lease_s, now, *_asked(wants)]


def read_limits(
    answer: Sequence[Any], wants: Sequence[Want]
) -> tuple[Want | None, float, list[tuple[int, float]]]:
    """→ (the one that refuses, seconds until it would not, (remaining, seconds until whole) of each)."""
    now = float(answer[2])
    left = [(int(answer[i]), float(answer[i + 1]) - now) for i in range(3, len(answer), 2)]
    return wants[int(answer[0]) - 1] if answer[0] else None, float(answer[1]), left


def settle_arguments(request: str, now: str, wants: Sequence[Want], used: int | None) -> list[Any]:
    return [request, now, *_settled(wants, used)]


def enter_arguments(
    request: str, slot_lease_s: float, limits: str, lease_s: float, wants: Sequence[Want]
) -> list[Any]:
    return [request, slot_lease_s, limits, lease_s, *_asked(wants)]


def leave_arguments(
    accept_s: float, request: str, replica: str, limits: str, wants: Sequence[Want], used: int | None
) -> list[Any]:
    return [accept_s, request, replica, limits, *_settled(wants, used)]


def _asked(wants: Sequence[Want]) -> list[Any]:
    return [part for want in wants for part in (want.key, want.kind, want.limit, want.cost)]


def _settled(wants: Sequence[Want], used: int | None) -> list[Any]:
    flat: list[Any] = []
    for want in wants:
        # What was taken was never more than the whole bucket.
        more = 0 if used is None else used - min(want.cost, want.limit)
        if more or want.kind in COUNTS:
            flat += [want.key, want.kind, want.limit, more]
    return flat
