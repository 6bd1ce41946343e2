"""Rows that pilots have ended → what they really used, for the limits that had only their estimate.

Separate from `rows`, which moves them: this asks after the commit, and only where some quota counts tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from gpuworker.wire import estimate_at
from portal.accounts.callers import read_quotas
from portal.admission.subjects import of_subjects
from portal.policy import estimate
from portal.policy.limits import Quota, Want, wants


@dataclass(frozen=True, slots=True)
class Spent:
    request: str
    used: int  # tokens
    wants: tuple[Want, ...]  # what had been reserved, of each limit


def spent(cur: Cursor, ended: Iterable[str], defaults: Mapping[str, Quota]) -> list[Spent]:
    quotas = read_quotas(cur)
    if not any(quota.tokens for quota in (*quotas.values(), *defaults.values())):
        return []
    cur.execute(
        """SELECT r.id, r.token_id, r.user_id, r.project_id, r.model, r.prompt_tokens, coalesce(r.completion_tokens, 0),
             coalesce(r.batch_length, octet_length(p.body)),
             CASE WHEN octet_length(p.body) <= %s THEN p.body END, r.api
           FROM ledger_request r LEFT JOIN ledger_payload p ON p.request = r.id
           WHERE r.id = ANY(%s::uuid[]) AND r.state IN ('done', 'failed') AND r.prompt_tokens IS NOT NULL""",
        (estimate.LONGEST, list(ended)),
    )
    found = []
    for id_, token, user, project, model, prompt, completion, length, body, api in cur.fetchall():
        reserved = estimate.of_row(length, body, estimate_at(api))
        asked = wants(of_subjects(quotas, defaults, token, user, project, model), ("tokens",), reserved)
        if asked:
            found.append(Spent(str(id_), prompt + completion, asked))
    return found
