"""What served a request, copied from the fleet to the request's row when it is handed out; in SQL.

Copied, because a replica's row changes with its life and its model's with people's edits; when it is handed out,
because then a gateway can say it with the first byte. Separate because gateways' grants and pilots' claims say the
same. The hot path takes no part in it but for its one INSERT.
"""

from __future__ import annotations

# To be joined to values `v` as `s`. LIMIT keeps the planner from reading all replicas that ever were instead.
REPLICA = """LEFT JOIN LATERAL (
               SELECT e.model, e.revision, e.engine_version, nullif(p.gpu_type, '') AS gpu_type,
                 p.submitted_at, p.job_started_at, e.started_at, e.hot_at
               FROM fleet_replica e JOIN fleet_pilot p ON p.id = e.pilot_id WHERE e.id = v.replica LIMIT 1) s ON true"""

# A row that goes back in line was served by nobody.
NOBODY = """replica = NULL, first_token_at = NULL, revision = NULL, engine_version = NULL, gpu_type = NULL,
             slurm_s = NULL, load_s = NULL"""


def revision(row: str) -> str:
    """Return the SQL of the revision that `row` is served with: an adapter's own, else what the engine was started
    with."""
    return f"""nullif(CASE WHEN s.model = {row}.model THEN s.revision
               ELSE (SELECT m.revision FROM catalog_model m WHERE m.name = {row}.model) END, '')"""


def facts(row: str, at: str) -> str:
    """Return the SET of a row that is handed to the replica `s` at the time `at`. The seconds of its wait that were
    Slurm's and the load's: the same rule as in portal.ledger.timeline."""
    return f"""revision = {revision(row)}, engine_version = nullif(s.engine_version, ''), gpu_type = s.gpu_type,
             slurm_s = {_within_s(row, at, "s.submitted_at", "s.job_started_at")},
             load_s = {_within_s(row, at, "s.started_at", "s.hot_at")}"""


def _within_s(row: str, at: str, start: str, end: str) -> str:
    """Return the SQL of the seconds of [start, end] between acceptance and `at`; 0 where one is not known."""
    return f"""CASE WHEN {start} IS NULL OR {end} IS NULL THEN 0 ELSE greatest(0, extract(epoch FROM
                 least({end}, {at}) - greatest({start}, {row}.accepted_at))) END"""
