"""The end of a pilot, and what follows it: its rows go back, its log is kept, its secret goes.

Separate, because it has to happen for every kind of end. The ledger's part is a sweep of its own
(`scheduler.maintenance.holders`), every tick, because it skips rows that somebody holds locked.
"""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.config import Config
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Pilot, PilotLog, Replica
from portal.fleet.states import PilotState
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write
from scheduler.jobs.spec import log_path, secret_path
from scheduler.observe.ways import Site
from scheduler.slurm.protocol import NoAnswer, NotOffered, SlurmClient, clean
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)

LOG_BYTES = 64 * 1024


def end(actor: Actor, pilot: UUID, reason: str, *, failed: bool, unasked: bool = False) -> bool:
    """Move a pilot from any live state to ended. Return False where it had ended already. Its requests go back with the
    next sweep, its log and secret with the next `clean_up`.

    `failed`: it counts against the models that it was starting. `unasked`: no decision of ours brought it about, so a row
    tells of it."""
    with moving() as cur:
        ended = fleet.end_pilots(cur, [pilot], actor.now(), reason, failed=failed)
        if ended and unasked:
            _tell(cur, pilot, reason, actor.now())
    actor.ended.extend(ended)
    return bool(ended)


def make_room(actor: Actor, taker: Pilot, job_id: int) -> bool:
    """End the other pilot that has this job's number, if there is one, or the taker, where the other may well live.
    Return whether the newer job may have the number.

    A controller that died before it had saved its last moments forgets jobs and gives their numbers again: whoever had
    the number has no job any more, and while its row said otherwise the newer job could have no row. But where an agent
    has registered, or another Slurm gave the number, that proves nothing: a new job costs less than one that works."""
    others = Pilot.objects.filter(cluster=taker.cluster, job_id=job_id).exclude(state=PilotState.ENDED)
    holder = others.exclude(pk=taker.pk).select_related("profile__access").first()
    if holder is None:
        return True
    if why := _may_live(holder, taker, job_id, actor.site):
        end(actor, taker.pk, why, failed=False, unasked=True)
        return False
    reason = f"Slurm has forgotten job {job_id}: it gave the number to another one."
    end(actor, holder.pk, reason, failed=False, unasked=True)
    return True


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


def _tell(cur: Cursor, pilot: UUID, reason: str, at: datetime) -> None:
    """Write where it ran, what it hosted, and what becomes of the work that it had begun."""
    row = Pilot.objects.get(pk=pilot)
    hosted = Replica.objects.filter(pilot=pilot, ended_at=row.ended_at)
    pools = sorted(hosted.values_list("pool_id", flat=True).distinct())
    begun = "SELECT count(*) FROM ledger_request WHERE holder = %s AND state = 'running' AND lane <> 'held'"
    cur.execute(begun, (str(pilot),))
    counted = cur.fetchone()
    back = int(counted[0]) if counted else 0
    where = f" on {row.node}" if row.node else ""
    text = f"{reason} It hosted {' and '.join(pools)}{where}." if pools else reason
    if back:
        text += f" {back} request{'s go' if back > 1 else ' goes'} back to the queue, with the old place."
    inputs: dict[str, str | int | float] = {"job": row.job_id or 0, "node": row.node, "given_back": back}
    write(DecisionKind.ENDED, text, at, pilot=pilot, pool=pools[0] if len(pools) == 1 else "", inputs=inputs)


def clean_up(actor: Actor) -> None:
    """Fetch the logs of pilots that have ended since the last time, and remove their secrets. What Slurm's side does
    not answer is left behind: a secret that nobody accepts any more. A way that did not answer once is not waited for
    again."""
    ended = list(actor.ended)
    actor.ended.clear()
    mute: set[Way] = set()
    for pilot in Pilot.objects.filter(id__in=ended).select_related("profile__access") if ended else ():
        way = actor.site.way_of(pilot.profile)
        for step in (_keep, _forget) if way not in mute else ():
            try:
                step(pilot, actor.client_for(way), actor)
            except NotOffered as error:
                logger.debug("pilot %s: %s", pilot.pk, error)
            except NoAnswer as error:
                mute.add(way)
                logger.warning("pilot %s: log or secret left behind: %s", pilot.pk, error)
                break


def _forget(pilot: Pilot, client: SlurmClient, actor: Actor) -> None:
    client.forget(secret_path(actor.config, pilot))


def _keep(pilot: Pilot, client: SlurmClient, actor: Actor) -> None:
    keep_log(pilot, client, actor.config, actor.now())


def keep_log(pilot: Pilot, client: SlurmClient, config: Config, at: datetime) -> int:
    """Store the end of the job's output for operators, and return its length in characters. Raises NoAnswer,
    NotOffered."""
    text = client.log_tail(log_path(config, pilot), LOG_BYTES)
    text = clean(text, len(text))
    PilotLog.objects.update_or_create(pilot=pilot, defaults={"text": text, "at": at})
    return len(text)
