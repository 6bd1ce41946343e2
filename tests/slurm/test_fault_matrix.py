"""kill -9 of each process at each step of a request's way: it ends well, once, and its job is not doubled.

Every scenario has a held request (a client on a connection) and a detached one in flight.
"""

from __future__ import annotations

import functools

import pytest

from tests.slurm.whole import WORDS, Whole

pytestmark = pytest.mark.slurm

STEPS = ("pending", "loading", "running")
VICTIMS = ("web", "worker", "beat", "agent", "redis", "job")
# Each process once, each step twice; the whole matrix is nightly.
EVERYDAY = {
    ("pending", "web"),
    ("pending", "redis"),
    ("loading", "worker"),
    ("loading", "agent"),
    ("running", "beat"),
    ("running", "job"),
}
SCENARIOS = [
    pytest.param(step, victim, marks=() if (step, victim) in EVERYDAY else pytest.mark.nightly)
    for step in STEPS
    for victim in VICTIMS
    if step != "pending" or victim not in ("agent", "job")
]


def bring_to(whole: Whole, step: str) -> None:
    """Wait until the flow has come to `step` and, there, stays for a moment."""
    if step == "pending":
        whole.until(lambda: whole.one("SELECT count(*) FROM fleet_pilot WHERE slurm_state = 'PENDING'"))
    elif step == "loading":
        whole.until(lambda: whole.replica_is("starting"))
    else:
        # And their first words said: a request is running from its grant on, before an engine has seen it.
        running = "SELECT count(*) FROM ledger_request WHERE state = 'running' AND granted_at < now() - interval '0.3 s'"
        whole.until(lambda: whole.one(running) == 2, what="both requests running")


def ended(whole: Whole, request_id: str) -> bool:
    return whole.detail(request_id)["timeline"]["done"] is not None


@pytest.mark.parametrize(("step", "victim"), SCENARIOS)
def test_an_accepted_request_survives_a_kill(whole: Whole, step: str, victim: str) -> None:
    whole.empty()
    whole.tune(load_s=1.5 if step == "loading" else 0, tokens_per_s=6 if step == "running" else 100)
    jobs_before = whole.jobs()
    if step == "pending":
        whole.hold_nodes(held=True)
    try:
        held = whole.ask()
        accepted = "SELECT id::text FROM ledger_request WHERE lane = 'held' AND ended_at IS NULL"
        whole.until(lambda: whole.one(accepted), what="the held request's row")
        held_id = whole.one(accepted)
        detached_id = whole.post()
        bring_to(whole, step)
        whole.kill(victim)
    finally:
        if step == "pending":
            whole.hold_nodes(held=False)

    for request_id in (held_id, detached_id):
        whole.until(functools.partial(ended, whole, request_id), 120, f"the end of {request_id}")
    assert whole.text_of(detached_id) == WORDS
    if victim == "web":
        # Its client is gone with it; the answer is kept under the request's id.
        assert whole.text_of(held_id) == WORDS
        assert whole.detail(held_id)["lane"] == "async"
    elif step == "running" and victim in ("agent", "job"):
        # Text had been seen already: an honest error, never a spliced answer.
        assert "replica_lost" in held.result()
        assert whole.detail(held_id)["error"]["code"] == "replica_lost"
    else:
        assert held.result() == WORDS
        assert whole.detail(held_id)["state"] == "done"
    assert whole.detail(detached_id)["state"] == "done"
    new_jobs = whole.jobs() - jobs_before
    assert len(new_jobs) == (2 if victim == "job" else 1), "the job must be adopted, not doubled"
    whole.until(lambda: len(whole.live_jobs()) == 1, what="the end of all jobs but one")
