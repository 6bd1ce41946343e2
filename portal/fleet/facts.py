"""Rows of catalog and fleet → the facts from which phases are explained. SELECTs over a plain cursor, no Django.

Read every two seconds by each gateway, and by each page and API call that shows a model: three statements, however
many pools there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from portal.db.rows import named
from portal.fleet.phase import JobFacts, PoolFacts, ProfileFacts, ReplicaFacts
from portal.fleet.states import ReplicaStart

# The way by which jobs of profile f are submitted, and who does not answer by it: plain Slurm where there is one way.
_WAY = """LEFT JOIN catalog_access a ON a.id = f.access_id
             LEFT JOIN fleet_waystate w ON w.cluster_id = f.cluster AND w.name = coalesce(a.name, '')"""
_WHO = """CASE WHEN coalesce(w.error, '') = '' THEN ''
                  WHEN (SELECT count(*) FROM fleet_waystate) = 1 THEN 'Slurm' ELSE w.said END"""


class _PoolRow(NamedTuple):
    """A pool with its state; `latched`: `reason` says why it is."""

    pool: str
    paused: bool
    cap: int
    load_s: float | None
    wake_s: float | None
    service_s: float | None
    latched: bool
    reason: str
    retry_at: float | None
    failures: int
    all_paused: bool


class _ReplicaRow(NamedTuple):
    """A live replica with the job that it is in."""

    pool: str
    state: str
    started_at: float | None
    phase: str
    start: str
    pilot_state: str
    profile: str
    job_id: int | None
    submitted_at: float | None
    slurm_state: str
    slurm_reason: str
    starts_at: float | None
    node: str
    silent: str
    silent_since: float | None


def read_facts(cur: Cursor, only: Sequence[str] | None = None) -> dict[str, PoolFacts]:
    """Return the facts of some pools, or of all, by pool."""
    pools = list(only) if only is not None else None
    replicas, profiles = _replicas(cur, pools), _profiles(cur, pools)
    cur.execute(
        """SELECT p.name AS pool, p.paused, p.cap, coalesce(s.load_s, p.load_estimate_s) AS load_s, s.wake_s, s.service_s,
             s.latched_at IS NOT NULL AS latched, coalesce(s.reason, '') AS reason,
             extract(epoch FROM s.retry_at)::float8 AS retry_at, coalesce(s.failures, 0) AS failures,
             coalesce((SELECT bool_and(paused) FROM fleet_cluster), false) AS all_paused
           FROM catalog_pool p LEFT JOIN fleet_poolstate s ON s.pool_id = p.name
           WHERE %(pools)s::text[] IS NULL OR p.name = ANY(%(pools)s)""",
        {"pools": pools},
    )
    return {row.pool: _pool(row, replicas[row.pool], profiles[row.pool]) for row in named(cur, _PoolRow)}


def _pool(row: _PoolRow, replicas: list[ReplicaFacts], profiles: list[ProfileFacts]) -> PoolFacts:
    return PoolFacts(
        replicas=replicas,
        profiles=profiles,
        paused=row.paused,
        fleet_paused=row.all_paused or (bool(profiles) and all(profile.paused for profile in profiles)),
        latched_reason=row.reason if row.latched else "",
        hold_reason=row.reason,
        retry_at=row.retry_at,
        failures=row.failures,
        load_s=row.load_s,
        wake_s=row.wake_s,
        service_s=row.service_s,
        cap=row.cap,
    )


def _replicas(cur: Cursor, pools: list[str] | None) -> dict[str, list[ReplicaFacts]]:
    """Return the live ones by pool, oldest first."""
    cur.execute(
        f"""SELECT r.pool_id AS pool, r.state, extract(epoch FROM r.started_at)::float8 AS started_at, r.phase, r.start,
             p.state AS pilot_state, f.name AS profile, p.job_id,
             extract(epoch FROM p.submitted_at)::float8 AS submitted_at, p.slurm_state, p.slurm_reason,
             extract(epoch FROM p.slurm_start_at)::float8 AS starts_at, p.node, {_WHO} AS silent,
             extract(epoch FROM w.answered_at)::float8 AS silent_since
           FROM fleet_replica r JOIN fleet_pilot p ON p.id = r.pilot_id JOIN catalog_profile f ON f.id = p.profile_id
             {_WAY}
           WHERE r.state NOT IN ('stopped', 'failed') AND (%(pools)s::text[] IS NULL OR r.pool_id = ANY(%(pools)s))
           ORDER BY r.wanted_at""",
        {"pools": pools},
    )
    found: dict[str, list[ReplicaFacts]] = defaultdict(list)
    for row in named(cur, _ReplicaRow):
        job = JobFacts(
            state=row.pilot_state,
            profile=row.profile,
            job_id=row.job_id,
            submitted_at=row.submitted_at,
            slurm_state=row.slurm_state,
            slurm_reason=row.slurm_reason,
            starts_at=row.starts_at,
            node=row.node,
            silent=row.silent,
            silent_since=row.silent_since,
        )
        woken = row.start == ReplicaStart.WAKE
        found[row.pool].append(ReplicaFacts(row.state, job, row.started_at, says=row.phase, wakes=woken))
    return found


def _profiles(cur: Cursor, pools: list[str] | None) -> dict[str, list[ProfileFacts]]:
    """Return the enabled ones by pool, without those on whose GPUs it is known not to fit, or its environment not to
    run."""
    cur.execute(
        f"""WITH room AS MATERIALIZED (
             SELECT DISTINCT q.profile_id, q.gpu_type, q.nodes, q.gpus - c.gpus AS gpus, q.mem_mb - r.mem_mb AS mem_mb
             FROM fleet_pilot q,
               LATERAL (SELECT count(*) AS gpus FROM fleet_gpuclaim WHERE pilot_id = q.id) c,
               LATERAL (SELECT coalesce(sum(CASE state WHEN 'asleep' THEN coalesce(asleep_mem_mb, mem_mb)
                                                       ELSE mem_mb END), 0) AS mem_mb
                        FROM fleet_replica WHERE pilot_id = q.id AND state NOT IN ('stopped', 'failed')) r
             WHERE q.state = 'up')
           SELECT f.name, s.wait_p50_s, s.wait_p90_s, extract(epoch FROM s.starts_at)::float8 AS starts_at, fit.load_s,
             CASE WHEN s.latched_at IS NOT NULL THEN s.reason ELSE '' END AS latched,
             {_WHO} AS silent, extract(epoch FROM w.answered_at)::float8 AS silent_since,
             coalesce((SELECT k.paused FROM fleet_cluster k WHERE k.name = f.cluster), false) AS paused,
             EXISTS (SELECT FROM room WHERE room.profile_id = f.id AND room.nodes = p.nodes
                     AND (e.gpu_types = '[]' OR room.gpu_type = '' OR e.gpu_types @> to_jsonb(room.gpu_type::text))
                     AND room.gpus >= p.gpus * p.nodes AND room.mem_mb >= p.mem_mb) AS has_room,
             EXISTS (SELECT FROM catalog_pool_profiles po JOIN catalog_pool o ON o.name = po.pool_id
                     WHERE po.profile_id = f.id AND o.nodes > p.nodes AND o.nodes <= f.nodes AND o.gpus = f.gpus)
               AS of_wider, pp.pool_id AS pool
           FROM catalog_pool_profiles pp JOIN catalog_profile f ON f.id = pp.profile_id
             JOIN catalog_pool p ON p.name = pp.pool_id
             JOIN catalog_environment e ON e.id = p.environment_id
             {_WAY}
             LEFT JOIN fleet_profilestate s ON s.profile_id = f.id
             LEFT JOIN fleet_fit fit ON fit.pool_id = pp.pool_id AND fit.gpu_type = f.gpu_type
           WHERE f.enabled AND coalesce(fit.fits, true)
             AND (e.gpu_types = '[]' OR f.gpu_type = '' OR e.gpu_types @> to_jsonb(f.gpu_type::text))
             AND (%(pools)s::text[] IS NULL OR pp.pool_id = ANY(%(pools)s))
           ORDER BY f.name""",
        {"pools": pools},
    )
    found: dict[str, list[ProfileFacts]] = defaultdict(list)
    for pool, facts in named(cur, _profile):
        found[pool].append(facts)
    return found


def _profile(*, pool: str, **known: Any) -> tuple[str, ProfileFacts]:
    return pool, ProfileFacts(**known)
