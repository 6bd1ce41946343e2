"""The end of a job's walltime, on a real cluster: its model is served on, by the next job or after a told gap.

Slurm knows walltimes of whole minutes only, so jobs get an hour and their end is then moved close by.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import psycopg2
import pytest

from portal.db.transaction import LOOP_LOCK
from tests.slurm.scenario import Scenario, rival
from tests.slurm.whole import POOL, WORDS, Whole

pytestmark = pytest.mark.slurm

LIVE = "SELECT id::text FROM fleet_pilot WHERE state <> 'ended'"


class Load:
    """The load of a handover: clients that ask one thing after the other, and what they got that is wrong.

    Every second one is a stream.
    """

    def __init__(self, whole: Whole, clients: int = 4) -> None:
        self._whole = whole
        self._over = threading.Event()
        self.wrong: list[str] = []
        self.answers = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number % 2 == 0,), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request has no end"

    def _run(self, streams: bool) -> None:
        while not self._over.is_set():
            text = self._whole.ask().result() if streams else self._in_one_piece()
            self.answers += 1
            if text != WORDS:
                self.wrong.append(text)

    def _in_one_piece(self) -> str:
        body = {"model": POOL, "messages": [{"role": "user", "content": WORDS}], "max_tokens": 64}
        request = urllib.request.Request(
            f"{self._whole.site.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._whole.berth.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(json.load(answer)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            return f"error: {error.code} {error.read(300)!r}"


@pytest.fixture
def hot(whole: Whole) -> Iterator[Scenario]:
    """Give one job that serves, and restore the profile as it was afterwards."""
    scenario = Scenario(whole)
    whole.tune(load_s=0.5, tokens_per_s=40)
    scenario.ask()
    scenario.answered()
    max_pilots = whole.one("SELECT max_pilots FROM catalog_profile WHERE name = 'demo'")
    yield scenario
    whole.rows("UPDATE catalog_profile SET max_pilots = %s WHERE name = 'demo'", max_pilots)


def end_soon(whole: Whole, in_s: int, keep_alive_s: int = 600) -> str:
    """Let the one live job have that long, as if it had been so from the start; return its pilot.

    An end that the loop sees moving is preemption, so it is moved in Slurm and in the loop's memory between
    two ticks.
    """
    job = whole.one("SELECT job_id FROM fleet_pilot WHERE state = 'up'")
    link = psycopg2.connect(whole.berth.stack.env()["BERTH_DATABASE_URL"])
    try:
        with link, link.cursor() as cur:
            cur.execute("SELECT pg_advisory_lock(%s)", (LOOP_LOCK,))
            whole.slurm.run("scontrol", "update", f"JobId={job}", f"EndTime=now+{in_s}")
            cur.execute("UPDATE catalog_pool SET keep_alive_s = %s WHERE name = %s", (keep_alive_s, POOL))
            cur.execute(
                "UPDATE fleet_pilot SET slurm_end_at = now() + %s * interval '1 s' WHERE job_id = %s RETURNING id::text",
                (in_s, job),
            )
            [(pilot,)] = cur.fetchall()
    finally:
        link.close()
    return str(pilot)


@contextlib.contextmanager
def no_other_place(whole: Whole, cap: str) -> Iterator[None]:
    """Allow one job at a time, by the profile, or because others leave us the GPUs that we have and no more.

    The second is what a QOS limit of the fleet's size does.
    """
    if cap == "the profile's":
        whole.rows("UPDATE catalog_profile SET max_pilots = 1 WHERE name = 'demo'")
        yield
        return
    [job] = whole.live_jobs()
    ours = whole.pilot(job)["node"]
    with contextlib.ExitStack() as others:
        for node in whole.slurm.spec.node_names:
            others.enter_context(rival(whole, node, 2 if node == ours else 4))
        yield


def ended(whole: Whole, pilot: str) -> bool:
    return bool(whole.one("SELECT ended_at FROM fleet_pilot WHERE id = %s", pilot))


def test_a_job_hands_over_before_its_end_and_nobody_notices(hot: Scenario) -> None:
    whole = hot.whole
    with Load(whole) as load:
        old = end_soon(whole, 35)
        whole.until(lambda: ended(whole, old), 120, "the end of the old job")
        before = load.answers
        whole.until(lambda: load.answers > before + 4, what="answers of the new job")
    assert load.wrong == []
    hot.answered()
    [(new, early, in_time)] = whole.rows(
        """SELECT n.id::text, r.hot_at < o.slurm_end_at, o.ended_at < o.slurm_end_at
           FROM fleet_pilot n JOIN fleet_pilot o ON o.id = n.replaces_id JOIN fleet_replica r ON r.pilot_id = n.id
           WHERE o.id = %s""",
        old,
    )
    assert early and in_time, "the successor is hot before the old job ends, and that ends by itself"
    assert whole.rows(LIVE) == [(new,)]
    hot.told(
        ("launch", "1 request waiting for echo"),
        ("launch", "but the job that serves echo ends at"),
        ("drain_pilot", "echo is served by a newer job: this one, which ends at"),
    )
    assert "and a successor may need" in hot.story()[1][1]


def test_a_model_that_nobody_uses_any_more_is_not_renewed(hot: Scenario) -> None:
    whole = hot.whole
    idle = "SELECT extract(epoch FROM now() - max(ended_at)) FROM ledger_request"
    whole.until(lambda: whole.one(idle) > 2)
    old = end_soon(whole, 30, keep_alive_s=1)
    whole.until(lambda: ended(whole, old), 120, "the end of the job")
    whole.until(lambda: not whole.live_jobs(), what="the end of the job in Slurm")
    assert whole.rows(LIVE) == []
    assert [kind for kind, _ in hot.story()].count("launch") == 1


@pytest.mark.nightly  # half a minute each
@pytest.mark.parametrize("cap", ["the profile's", "the cluster's"])
def test_where_no_job_may_start_beside_it_the_gap_is_told_and_those_who_wait_are_served(
    hot: Scenario, cap: str
) -> None:
    """The cluster's: the next job is submitted, and pends until the old one ends."""
    whole = hot.whole
    with no_other_place(whole, cap), Load(whole) as load:
        old = end_soon(whole, 30)
        told = "SELECT reason FROM fleet_poolstate WHERE reason LIKE 'The job that serves echo ends at %%'"
        whole.until(lambda: whole.one(told), what="the gap's sentence")
        before = load.answers
        whole.until(lambda: load.answers > before, what="an answer while the gap is only announced")
        whole.until(lambda: ended(whole, old), 120, "the end of the old job")
        hot.ask()
        hot.post(2)
        hot.answered()
    assert load.wrong == []
    assert len(whole.rows(LIVE)) == 1 and whole.rows(LIVE) != [(old,)]
    successor, over = (
        ("launch", "waiting for echo"),
        ("ended", "Its agent ended it: its time was nearly over."),
    )
    if cap == "the cluster's":
        successor = ("launch", "but the job that serves echo ends at")
        hot.told(("launch", "waiting for echo"), successor, over, beside={"hold"})
    else:
        hot.told(("launch", "waiting for echo"), over, successor, beside={"hold"})
    held = [reason for kind, reason in hot.story() if kind == "hold"]
    why = (
        "no further job may start beside it under demo" if cap == "the profile's" else "Slurm has not started"
    )
    assert f", and {why}" in held[0] and "requests wait then, until about" in held[0], held
    assert held[-1] == "Nothing holds it back.", held
