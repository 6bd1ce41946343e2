"""What follows the end of a pilot: its rows go back, its last words are kept, its secret goes.

Separate, because it has to happen for every kind of end. The ledger's part is a sweep of its own, every tick,
because it skips rows that somebody holds locked.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.config import Config
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot, PilotLog, Replica
from portal.fleet.states import PilotState
from portal.ledger import transitions as ledger
from scheduler.act.decision_rows import tell
from scheduler.act.job_spec import log_path, secret_path
from scheduler.observe.listing import ClientFor
from scheduler.observe.ways import Site
from scheduler.slurm.protocol import NoAnswer, NotOffered, SlurmClient, UsageInfo, clean
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)

LOG_BYTES = 64 * 1024


def end(
    pilots: Iterable[UUID], reason: str, now: float, *, failed: bool, unasked: bool = False
) -> list[UUID]:
    """Any live state → ended. Answers those that ended now. Their rows go back with the next `release_rows`.

    `unasked`: no decision of ours brought it about, so a row tells of it."""
    with moving() as cur:
        ended = fleet.end_pilots(cur, pilots, datetime.fromtimestamp(now, UTC), reason, failed=failed)
        for pilot in ended if unasked else ():
            _tell(cur, pilot, reason, now)
        return ended


@dataclass(frozen=True, slots=True)
class Room:
    """`ended`: pilots that are no more, `clean_up` is the caller's. `taken`: whether the newer job may have the number;
    if not, its own pilot is among those that ended."""

    ended: list[UUID]
    taken: bool = True


def make_room(taker: Pilot, job_id: int, site: Site, now: float) -> Room:
    """End the other pilot that has this job's number, if there is one, or the taker, where the other may well live.

    A controller that died before it had saved its last moments forgets jobs and gives their numbers again: whoever had
    the number has no job any more, and while its row said otherwise the newer job could have no row. But where an agent
    has registered, or another Slurm gave the number, that proves nothing: a new job costs less than one that works."""
    others = Pilot.objects.filter(cluster=taker.cluster, job_id=job_id).exclude(state=PilotState.ENDED)
    holder = others.exclude(pk=taker.pk).select_related("profile__access").first()
    if holder is None:
        return Room([])
    if why := _may_live(holder, taker, job_id, site):
        return Room(end([taker.pk], why, now, failed=False, unasked=True), taken=False)
    reason = f"Slurm has forgotten job {job_id}: it gave the number to another one."
    return Room(end([holder.pk], reason, now, failed=False, unasked=True))


def _may_live(holder: Pilot, taker: Pilot, job_id: int, site: Site) -> str:
    """Return why the holder of a number keeps it, in words; "" where its job is gone."""
    own, other = site.way_of(taker.profile), site.way_of(holder.profile)
    if own.slurm != other.slurm:
        return (
            f"{own.said} gave its job the number {job_id}, which a live job has that {other.said} knows, and both "
            f"are called cluster {taker.cluster}. Another job is asked for. If these are two clusters, "
            "let the jobs of one end and give its access a cluster name of its own."
        )
    if holder.agent_job_id == job_id:
        return (
            f"Slurm gave its job the number {job_id} a second time, and the agent of the other one has not ended: "
            "another job is asked for."
        )
    return ""


def _tell(cur: Cursor, pilot: UUID, reason: str, now: float) -> None:
    """Where it ran, what it hosted, and what becomes of the work that it had begun."""
    row = Pilot.objects.get(pk=pilot)
    hosted = Replica.objects.filter(pilot=pilot, ended_at=row.ended_at)
    pools = sorted(hosted.values_list("pool_id", flat=True).distinct())
    begun = "SELECT count(*) FROM ledger_request WHERE holder = %s AND state = 'running' AND lane <> 'held'"
    cur.execute(begun, (str(pilot),))
    found = cur.fetchone()
    back = int(found[0]) if found else 0
    where = f" on {row.node}" if row.node else ""
    said = f"{reason} It hosted {' and '.join(pools)}{where}." if pools else reason
    if back:
        said += f" {back} request{'s go' if back > 1 else ' goes'} back to the queue, with the old place."
    inputs: dict[str, str | int | float] = {"job": row.job_id or 0, "node": row.node, "given_back": back}
    tell("ended", said, now, pilot=pilot, pool=pools[0] if len(pools) == 1 else "", inputs=inputs)


def accounted(pilots: Iterable[Pilot], site: Site, client_for: ClientFor) -> dict[UUID, UsageInfo]:
    """What accounting says of jobs that Slurm lists no more, where there is accounting."""
    by_way: dict[Way, dict[int, UUID]] = defaultdict(dict)
    for pilot in pilots:
        if pilot.job_id is not None:
            by_way[site.way_of(pilot.profile)][pilot.job_id] = pilot.pk
    found = {}
    for way, jobs in by_way.items():
        try:
            said = client_for(way).usage(sorted(jobs))
        except (NoAnswer, NotOffered) as error:
            logger.info("jobs %s vanished, and accounting does not say why: %s", sorted(jobs), error)
            continue
        for job_id, usage in said.items():
            if job_id in jobs:
                found[jobs[job_id]] = replace(usage, state=clean(usage.state, 100))
    return found


def release_rows(now: float) -> None:
    """Rows in the hands of pilots that have ended go back to the queue."""
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        cur.execute(
            """SELECT p.id, p.end_reason FROM fleet_pilot p
               WHERE p.state = 'ended' AND p.ended_at > %s - interval '1 day' AND EXISTS (
                 SELECT 1 FROM ledger_request r
                 WHERE r.holder = p.id::text AND r.state = 'running' AND r.lane <> 'held')""",
            (at,),
        )
        for pilot, reason in cur.fetchall():
            ledger.release(cur, UUID(str(pilot)), at, reason)


def clean_up(pilots: Iterable[UUID], site: Site, client_for: ClientFor, config: Config, now: float) -> None:
    """Log and secret of pilots that have ended. What Slurm's side does not answer is left behind: a
    secret that nobody accepts any more. A way that did not answer once is not waited for again."""
    mute: set[Way] = set()
    for pilot in Pilot.objects.filter(id__in=list(pilots)).select_related("profile__access"):
        way = site.way_of(pilot.profile)
        for deed in (_keep, _forget) if way not in mute else ():
            try:
                deed(pilot, client_for(way), config, now)
            except NotOffered as error:
                logger.debug("pilot %s: %s", pilot.pk, error)
            except NoAnswer as error:
                mute.add(way)
                logger.warning("pilot %s: log or secret left behind: %s", pilot.pk, error)
                break


def _forget(pilot: Pilot, client: SlurmClient, config: Config, now: float) -> None:
    client.forget(secret_path(config, pilot))


def _keep(pilot: Pilot, client: SlurmClient, config: Config, now: float) -> None:
    keep_log(pilot, client, config, now)


def keep_log(pilot: Pilot, client: SlurmClient, config: Config, now: float) -> int:
    """Stores the end of the job's output for operators; answers its length. Raises NoAnswer, NotOffered."""
    text = client.log_tail(log_path(config, pilot), LOG_BYTES)
    text = clean(text, len(text))
    at = datetime.fromtimestamp(now, UTC)
    PilotLog.objects.update_or_create(pilot=pilot, defaults={"text": text, "at": at})
    return len(text)
