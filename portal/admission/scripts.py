"""The Lua scripts → as Redis knows them, with how what they are asked and answer is spelled.

Separate from `slots` because the portal's pages ask the same scripts over connections of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from portal.admission.place import Place
from portal.admission.subjects import PERMIT_S, key_of
from portal.policy.fairshare import Line
from portal.policy.limits import COUNTS, Want
from portal.redis import keys

Command = tuple[str | int | float | bytes, ...]
_LUA = Path(__file__).with_name("lua")


class Script:
    """A Lua script with the names of keys and the functions that it shares; known to Redis by its hash."""

    def __init__(self, name: str, *parts: str) -> None:
        files = [(_LUA / f"{part}.lua").read_bytes() for part in ("common", *parts, name)]
        self.text = b"\n".join([keys.lua_names().encode(), *files])
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


# Those about a pool get its prefix as KEYS[1], which also tells a Redis cluster the node. Those about limits only get
# whole keys among their arguments.
_OF_POOLS = ("admit", "enqueue", "fill", "release", "renew", "tag", "started", "give_back")
_OF_POOLS_AND_LIMITS = ("enter", "leave")
_OF_LIMITS = ("limit", "settle", "keep")
SCRIPTS = {name: Script(name) for name in _OF_POOLS} | {
    name: Script(name, "limits") for name in (*_OF_POOLS_AND_LIMITS, *_OF_LIMITS)
}


def of_pool(name: str, pool: str, *args: Any) -> Command:
    """Return the command that runs a script on the keys of this pool."""
    return ("EVALSHA", SCRIPTS[name].sha, 1, keys.pool_prefix(pool), *args)


def of_limits(name: str, *args: Any) -> Command:
    """Return the command that runs a script which gets its keys among its arguments."""
    return ("EVALSHA", SCRIPTS[name].sha, 0, *args)


def tag_arguments(
    lane: str, project: int, share: float, priority: int, request: str, seed: Line | None
) -> list[Any]:
    seeds: list[Any] = []
    if seed is not None:
        seeds = [repr(seed.vtime)]
        for (of, level), finish in seed.finishes.items():
            seeds += [of, level, repr(finish)]
    return [lane, project, repr(share), priority, request, *seeds]


def limit_arguments(
    request: str, wants: Sequence[Want], now: str = "", permit_s: float = PERMIT_S
) -> list[Any]:
    return [request, permit_s, now, *_asked(wants)]


def read_limits(
    answer: Sequence[Any], wants: Sequence[Want]
) -> tuple[Want | None, float, list[tuple[int, float]]]:
    """Return (the one that refuses, seconds until it would not, (remaining, seconds until whole) of each)."""
    now = float(answer[2])
    left = [(int(answer[i]), float(answer[i + 1]) - now) for i in range(3, len(answer), 2)]
    return wants[int(answer[0]) - 1] if answer[0] else None, float(answer[1]), left


def settle_arguments(request: str, wants: Sequence[Want], used: int | None, now: str = "") -> list[Any]:
    return [request, now, *_settled(wants, used)]


def enter_arguments(place: Place, lease_s: float, wants: Sequence[Want]) -> list[Any]:
    return [lease_s, PERMIT_S, *place.arguments(), *_asked(wants)]


def leave_arguments(
    accept_s: float, place: Place, replica: str, wants: Sequence[Want], used: int | None
) -> list[Any]:
    return [accept_s, replica, *place.arguments(), *_settled(wants, used)]


def keep_arguments(held: Iterable[tuple[Want, str]]) -> list[Any]:
    """Return what `keep` is asked. `held`: a count and the request that has a permit of it."""
    return [PERMIT_S, *(part for want, request in held for part in (key_of(want), request))]


def _asked(wants: Sequence[Want]) -> list[Any]:
    return [part for want in wants for part in (key_of(want), want.kind, want.limit, want.cost)]


def _settled(wants: Sequence[Want], used: int | None) -> list[Any]:
    flat: list[Any] = []
    for want in wants:
        # What was taken was never more than the whole bucket.
        more = 0 if used is None else used - min(want.cost, want.limit)
        if more or want.kind in COUNTS:
            flat += [key_of(want), want.kind, want.limit, more]
    return flat
