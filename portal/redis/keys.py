"""Every key and channel that Berth has in Redis: how it is spelled, what stands there, who writes and reads it, and
how long it stays. This is the only place where one is spelled (a test reads the source of all the rest).

A spelling is never changed: during a rolling upgrade, processes of both releases work on the same keys. The Lua
scripts spell nothing either. They are given a pool's prefix (`pool_prefix`) and put the endings below behind it, which
`lua_names` gives them by name; keys of limits are given to them whole.

All of it is soft state (invariant 10): a flushed Redis costs seconds. Beside these stand the broker's own keys, which
Celery names after its queue (`berth-<instance>`, see portal.celery).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Type = Literal["string", "hash", "set", "sorted set", "string or sorted set", "channel"]


@dataclass(frozen=True, slots=True)
class Key:
    """One kind of key or channel. `pattern` has a %s for each name that it is about, in the order of `of`."""

    pattern: str
    type: Type
    holds: str
    writer: str
    readers: str
    expiry: str
    expires_s: int = 0  # what the writer sets; 0: it sets none, or works it out (see `expiry`)

    def of(self, *names: str | int | UUID) -> str:
        """Return the key, or the channel, that is about these names. Raise TypeError when their number is wrong."""
        return self.pattern % names


# What the scripts of one pool work on. The braces keep a pool's keys on one node of a Redis cluster.

_POOL = "berth:{%s}"


def pool_prefix(pool: str) -> str:
    """Return what all keys of a pool begin with."""
    return _POOL % pool


ROUTES = Key(
    f"{_POOL}:routes",
    "hash",
    holds="replica → where and how it is reached, as JSON (admission.slots.read_route)",
    writer="workerapi, from pilots' reports; the gateway and scheduler.act.routes take entries away",
    readers="the scripts; scheduler.act.routes",
    expiry="none; each tick takes away what the fleet's tables do not route",
)
SLOTS = Key(
    f"{_POOL}:slots:%s",
    "sorted set",
    holds="of a replica: '<request>|0' → when its lease is over, in UNIX seconds",
    writer="the scripts admit, enter, fill, renew, release, leave",
    readers="the scripts",
    expiry="after the last slot was taken or renewed",
    expires_s=120,
)
WAIT = Key(
    f"{_POOL}:wait",
    "sorted set",
    holds="held requests in line: request → order key",
    writer="the scripts enqueue, fill, release",
    readers="the scripts; gateways, for positions and to put back what is missing",
    expiry="none; a request leaves it with its grant or its end",
)
OWNER = Key(
    f"{_POOL}:owner",
    "hash",
    holds="request in line → the gateway that holds its connection",
    writer="the scripts enqueue, fill, release",
    readers="the script fill",
    expiry="none; as `wait`",
)
SUSPECTS = Key(
    f"{_POOL}:suspects",
    "set",
    holds="requests that run alone, because an engine died under them",
    writer="the scripts enqueue, renew, release",
    readers="the scripts",
    expiry="after the last one entered",
    expires_s=86_400,
)
PROJECTS = Key(
    f"{_POOL}:projects",
    "hash",
    holds="held request with a reserved place → its project",
    writer="the scripts tag, fill, release",
    readers="the scripts",
    expiry="none; as `wait`",
)
LINE = Key(
    f"{_POOL}:line:%s",
    "sorted set",
    holds="of a project: its held requests with a reserved place → order key",
    writer="the scripts tag, fill, release",
    readers="the scripts",
    expiry="after the last place was reserved",
    expires_s=86_400,
)
VTIME = Key(
    f"{_POOL}:vtime",
    "hash",
    holds="lane → virtual time; '<lane>:newest' → the last start tag of a project that was idle",
    writer="the scripts tag, fill, started",
    readers="the script tag",
    expiry="none; rebuilt from PostgreSQL after a flush",
)
TAGS = Key(
    f"{_POOL}:tags",
    "hash",
    holds="'<lane>:<project>:<priority>' → finish tag",
    writer="the scripts tag, release, give_back",
    readers="the script tag",
    expiry="none; rebuilt from PostgreSQL after a flush",
)

# What is one of its kind, or about something else than a pool.

LIMIT = Key(
    "berth:limit:%s:%s:%s",
    "string or sorted set",
    holds="of a level, a subject and a kind: for a rate when its bucket is full again, in UNIX seconds; for a count "
    "request → when its permit is over, in UNIX seconds",
    writer="the scripts limit, enter, settle, leave, keep",
    readers="the scripts; admission.quotas and admission.consumption",
    expiry="a rate: when its bucket is full; a count: four times what a permit lasts, after the last was taken",
)
EPOCH = Key(
    "berth:epoch",
    "string",
    holds="a random name of the life of this Redis' memory",
    writer="whichever gateway finds none",
    readers="gateways",
    expiry="none; a new one means that Redis was flushed",
)
SYNC = Key(
    "berth:sync:%s",
    "string",
    holds="a pilot's last report as JSON (wire.Sync), with the time at which it came",
    writer="workerapi",
    readers="scheduler.observe.reports; workerapi, to tell a late report",
    expiry="after the report",
    expires_s=600,
)
RELAY = Key(
    "berth:relay:%s",
    "string",
    holds="the address at which a process lends the links that it holds",
    writer="that process, every 5 s",
    readers="processes that have no link of a pilot",
    expiry="after it was said last: a process that has died is forgotten",
    expires_s=12,
)
LINKS = Key(
    "berth:links:%s",
    "set",
    holds="the processes that hold links of a pilot",
    writer="those processes",
    readers="processes that have none; workerapi, to tell whether the pilot is reached",
    expiry="after it was said last",
    expires_s=60,
)
SILENT_SINCE = Key(
    "berth:silent:since",
    "hash",
    holds="pilot → since when it could have been heard and was not, in UNIX seconds",
    writer="scheduler.observe.silence",
    readers="scheduler.observe.silence",
    expiry="none; an entry goes when its pilot is heard or is not expected any more",
)
SILENT_NOTED = Key(
    "berth:silent:told",
    "set",
    holds="pilots of which a decision says that they are silent",
    writer="scheduler.observe.silence",
    readers="scheduler.observe.silence",
    expiry="none; as SILENT_SINCE",
)
RETENTION = Key(
    "berth:retention",
    "string",
    holds="1: what is too old was erased within the last hour",
    writer="scheduler.maintenance.retention",
    readers="scheduler.maintenance.retention",
    expiry="after it was set",
    expires_s=3600,
)
TICK_AGAIN = Key(
    "berth:tick:again",
    "string",
    holds="1: a tick was asked for while another one ran",
    writer="scheduler.tasks",
    readers="scheduler.tasks",
    expiry="after it was set",
    expires_s=60,
)
CACHE = Key(
    "berth:cache",
    "string",
    holds="what Django's cache keys begin with: counts of wrong passwords (accounts.throttle)",
    writer="Django's cache (settings.CACHES)",
    readers="Django's cache",
    expiry="set for each entry by who keeps it there",
)

# Channels. A message that is lost costs a second: whoever listens also looks by itself.

GATEWAY = Key(
    "berth:gw:%s",
    "channel",
    holds="to one gateway, as JSON: a slot for a request of its own, or the cancellation of one",
    writer="the script fill; redis.hints",
    readers="admission.keeper",
    expiry="a slot that is not taken up is free again after ACCEPT_S",
)
DIRECTORY = Key(
    "berth:directory",
    "channel",
    holds="'changed': tokens, projects or models are to be read anew",
    writer="redis.hints",
    readers="admission.keeper, for the gateway's directory",
    expiry="none",
)
ROWS = Key(
    "berth:lease:%s",
    "channel",
    holds="'look': rows of this pool wait for pilots to pull them",
    writer="the gateway, workerapi and redis.hints",
    readers="workerapi, where pilots' polls wait",
    expiry="none",
)

OF_POOLS = (ROUTES, SLOTS, WAIT, OWNER, SUSPECTS, PROJECTS, LINE, VTIME, TAGS)
ALL = (
    *OF_POOLS,
    LIMIT,
    EPOCH,
    SYNC,
    RELAY,
    LINKS,
    SILENT_SINCE,
    SILENT_NOTED,
    RETENTION,
    TICK_AGAIN,
    CACHE,
    GATEWAY,
    DIRECTORY,
    ROWS,
)


def ending(key: Key) -> str:
    """Return what stands behind the prefix in a pool's key, without what it is about: ':slots:' of SLOTS."""
    return key.pattern.removeprefix(_POOL).removesuffix("%s")


def lua_names() -> str:
    """Return the Lua text that gives the scripts the endings of a pool's keys, their expiry and the gateways' channel."""
    names = {
        "ROUTES": ending(ROUTES),
        "SLOTS": ending(SLOTS),
        "WAIT": ending(WAIT),
        "OWNER": ending(OWNER),
        "SUSPECTS": ending(SUSPECTS),
        "PROJECTS": ending(PROJECTS),
        "LINE": ending(LINE),
        "VTIME": ending(VTIME),
        "TAGS": ending(TAGS),
        "GATEWAY": GATEWAY.of(""),
    }
    kept = {"SLOTS_S": SLOTS, "SUSPECTS_S": SUSPECTS, "LINE_S": LINE}
    text = [f"local {name} = '{spelled}'" for name, spelled in names.items()]
    return "\n".join([*text, *(f"local {name} = {key.expires_s}" for name, key in kept.items())])
