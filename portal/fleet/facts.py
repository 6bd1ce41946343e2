"""Rows of catalog and fleet → the facts from which phases are explained. SELECTs over a plain cursor, no Django.

Read every two seconds by each gateway, and by each page and API call that shows a model: three statements, however
many pools there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor

from portal.fleet.phase import JobFacts, PoolFacts, ProfileFacts, ReplicaFacts

# The way by which jobs of profile f are submitted, and who does not answer by it: plain Slurm where there is one way.
_WAY = """LEFT JOIN catalog_access a ON a.id = f.access_id
             LEFT JOIN fleet_waystate w ON w.cluster_id = f.cluster AND w.name = coalesce(a.name, '')"""
_WHO = """CASE WHEN coalesce(w.error, '') = '' THEN ''
                  WHEN (SELECT count(*) FROM fleet_waystate) = 1 THEN 'Slurm' ELSE w.said END"""


def read_facts(cur: Cursor, only: Sequence[str] | None = None) -> dict[str, PoolFacts]:
    """By pool; of some, or of all."""
    pools = list(only) if only is not None else None
    replicas, profiles = _replicas(cur, pools), _profiles(cur, pools)
    cur.execute(
        """SELECT p.name, p.paused, p.cap, coalesce(s.load_s, p.load_estimate_s), s.wake_s, s.service_s,
             s.latched_at IS NOT NULL, coalesce(s.reason, ''), extract(epoch FROM s.retry_at),
             coalesce(s.failures, 0), coalesce((SELECT bool_and(paused) FROM fleet_cluster), false)
           FROM catalog_pool p LEFT JOIN fleet_poolstate s ON s.pool_id = p.name
           WHERE %(pools)s::text[] IS NULL OR p.name = ANY(%(pools)s)""",
        {"pools": pools},
    )
    return {
        name: PoolFacts(
            replicas=replicas[name],
            profiles=profiles[name],
            paused=paused,
            fleet_paused=all_paused or (bool(profiles[name]) and all(p.paused for p in profiles[name])),
            latched_reason=reason if latched else "",
            hold_reason=reason,
            retry_at=_number(retry_at),
            failures=failures,
            load_s=load_s,
            wake_s=wake_s,
            service_s=service_s,
            cap=cap,
        )
        for name, paused, cap, load_s, wake_s, service_s, latched, reason, retry_at, failures, all_paused in cur
    }


def _replicas(cur: Cursor, pools: list[str] | None) -> dict[str, list[ReplicaFacts]]:
    """Live ones, oldest first."""
    cur.execute(
        f"""SELECT r.pool_id, r.state, extract(epoch FROM r.started_at), r.phase, p.state, f.name, p.job_id,
             extract(epoch FROM p.submitted_at), p.slurm_state, p.slurm_reason,
             extract(epoch FROM p.slurm_start_at), p.node, {_WHO}, extract(epoch FROM w.answered_at)
           FROM fleet_replica r JOIN fleet_pilot p ON p.id = r.pilot_id JOIN catalog_profile f ON f.id = p.profile_id
             {_WAY}
           WHERE r.state NOT IN ('stopped', 'failed') AND (%(pools)s::text[] IS NULL OR r.pool_id = ANY(%(pools)s))
           ORDER BY r.wanted_at""",
        {"pools": pools},
    )
    found: dict[str, list[ReplicaFacts]] = defaultdict(list)
    for name, state, started_at, says, *job in cur.fetchall():
        pilot_state, profile, job_id, submitted_at, slurm_state, slurm_reason, starts_at, node, *way = job
        told = JobFacts(
            pilot_state,
            profile,
            job_id,
            _number(submitted_at),
            slurm_state,
            slurm_reason,
            _number(starts_at),
            node,
            way[0],
            _number(way[1]),
        )
        found[name].append(ReplicaFacts(state, told, _number(started_at), says))
    return found


def _profiles(cur: Cursor, pools: list[str] | None) -> dict[str, list[ProfileFacts]]:
    """Enabled ones, without those on whose GPUs the pool is known not to fit, or its environment not to run."""
    cur.execute(
        f"""WITH room AS MATERIALIZED (
             SELECT DISTINCT q.profile_id, q.gpu_type, q.nodes, q.gpus - c.gpus AS gpus, q.mem_mb - r.mem_mb AS mem_mb
             FROM fleet_pilot q,
               LATERAL (SELECT count(*) AS gpus FROM fleet_gpuclaim WHERE pilot_id = q.id) c,
               LATERAL (SELECT coalesce(sum(CASE state WHEN 'asleep' THEN coalesce(asleep_mem_mb, mem_mb)
                                                       ELSE mem_mb END), 0) AS mem_mb
                        FROM fleet_replica WHERE pilot_id = q.id AND state NOT IN ('stopped', 'failed')) r
             WHERE q.state = 'up')
           SELECT pp.pool_id, f.name, s.wait_p50_s, s.wait_p90_s, extract(epoch FROM s.starts_at), fit.load_s,
             CASE WHEN s.latched_at IS NOT NULL THEN s.reason ELSE '' END,
             {_WHO}, extract(epoch FROM w.answered_at),
             coalesce((SELECT k.paused FROM fleet_cluster k WHERE k.name = f.cluster), false),
             EXISTS (SELECT FROM room WHERE room.profile_id = f.id AND room.nodes = p.nodes
                     AND (e.gpu_types = '[]' OR room.gpu_type = '' OR e.gpu_types @> to_jsonb(room.gpu_type::text))
                     AND room.gpus >= p.gpus * p.nodes AND room.mem_mb >= p.mem_mb),
             EXISTS (SELECT FROM catalog_pool_profiles po JOIN catalog_pool o ON o.name = po.pool_id
                     WHERE po.profile_id = f.id AND o.nodes > p.nodes AND o.nodes <= f.nodes AND o.gpus = f.gpus)
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
    for of, name, p50_s, p90_s, starts_at, load_s, latched, silent, since, paused, *more in cur.fetchall():
        known = p50_s, p90_s, _number(starts_at), load_s, latched
        found[of].append(ProfileFacts(name, *known, silent, _number(since), paused, *more))
    return found


def _number(value: object) -> float | None:
    """PostgreSQL's epochs are decimals."""
    return None if value is None else float(str(value))
