"""kill -9 of each process under load: fifty programs that ask all the time and a batch of 2,000 lines under way.

Every accepted request ends exactly once (a trigger counts the ends of each row), the batch's output has each
custom_id once, and every program is answered or told clearly. All of it is real: web, worker, beat, job, agent, engine,
PostgreSQL and Redis are processes of their own, and come back as whatever supervises them in life would have it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.slurm.load import LINES, PROGRAMS, Batch, Programs, Said, hurt, until
from tests.slurm.whole import WORDS, Whole

pytestmark = pytest.mark.slurm

COUNT_THE_ENDS = """
CREATE TABLE end_of_request (id uuid NOT NULL);
CREATE FUNCTION note_the_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO end_of_request VALUES (NEW.id); RETURN NULL; END $$;
CREATE TRIGGER note_the_end AFTER INSERT ON ledger_request
  FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL) EXECUTE FUNCTION note_the_end();
CREATE TRIGGER note_the_end_of_one AFTER UPDATE OF state ON ledger_request
  FOR EACH ROW WHEN (NEW.state IN ('done', 'failed', 'cancelled', 'expired')) EXECUTE FUNCTION note_the_end();
"""
FORGET_THEM = """
DROP TRIGGER note_the_end ON ledger_request; DROP TRIGGER note_the_end_of_one ON ledger_request;
DROP FUNCTION note_the_end; DROP TABLE end_of_request;
"""
LIVE = "SELECT count(*) FROM ledger_request WHERE ended_at IS NULL"

# What a program may be told beside its answer. `event`: its stream had begun and its replica is gone; that is
# never spliced. `refused`: a clean error before the first byte.
TOLD: dict[str, set[tuple[str, str]]] = {
    "web": {("refused", "queue_unavailable")},
    "worker": set(),
    "beat": set(),
    "job": {("event", "replica_lost")},
    "agent": {("event", "replica_lost")},
    "engine": {("event", "replica_lost")},
    "redis": {("refused", "queue_unavailable"), ("event", "queue_unavailable")},
    "flush": set(),
    # Silent for longer than a gateway may be, it was taken for gone: what it held was moved to the pilots.
    "postgres": {
        (how, code) for how in ("refused", "event") for code in ("database_unavailable", "detached")
    },
}
EVERY_DAY = ("web",)
VICTIMS = [pytest.param(v, marks=() if v in EVERY_DAY else pytest.mark.nightly) for v in TOLD]


@pytest.fixture
def counted(whole: Whole) -> Iterator[Whole]:
    """Give an idle Berth whose ledger counts how often each request ends."""
    whole.empty()
    whole.tune(load_s=0.2, tokens_per_s=30)
    whole.rows(COUNT_THE_ENDS)
    yield whole
    whole.rows(FORGET_THEM)


@pytest.mark.parametrize("victim", VICTIMS)
def test_every_accepted_request_ends_once(counted: Whole, victim: str) -> None:
    whole = counted
    batch = Batch(whole)
    with Programs(whole) as programs:
        until(whole, lambda: len(programs.answered_since(0)) == PROGRAMS, 120, "an answer to every program")
        until(whole, lambda: batch.done() >= 50, 120, "a part of the batch")
        assert batch.done() < LINES / 2, "the batch was half over before it mattered"
        killed_at = time.monotonic()
        hurt(whole, victim)
        until(
            whole,
            lambda: len(programs.answered_since(killed_at + 2)) == PROGRAMS,
            90,
            "answers to all after it",
        )
        programs.stop()
    until(whole, batch.is_over, 120, "the end of the batch")
    until(whole, lambda: whole.one(LIVE) == 0, 120, "the end of every request")
    _the_batch_is_whole(batch)
    batch.close()
    _each_ended_once(whole)
    _nobody_was_left_in_the_dark(programs.said, victim, killed_at)
    _what_they_heard_is_what_stands_in_the_ledger(whole, programs.said, victim, killed_at)


def _the_batch_is_whole(batch: Batch) -> None:
    ended = batch.look()
    assert (ended.status, ended.error_file_id) == ("completed", None)
    output = batch.output()
    texts = {
        said["custom_id"]: said["response"]["body"]["choices"][0]["message"]["content"] for said in output
    }
    assert len(output) == LINES, "a line too many or too few"
    assert texts == {f"line-{i}": f"{i} {WORDS}" for i in range(LINES)}


def _each_ended_once(whole: Whole) -> None:
    ends = Counter(row[0] for row in whole.rows("SELECT id::text FROM end_of_request"))
    assert not {id_: times for id_, times in ends.items() if times != 1}
    assert whole.one("SELECT count(*) FROM end_of_request e JOIN ledger_request r USING (id)") == len(ends)


def _nobody_was_left_in_the_dark(said: list[Said], victim: str, killed_at: float) -> None:
    odd = [call for call in said if call.how != "answer"]
    told = {(call.how, call.code) for call in odd if call.how != "broken"}
    assert told <= TOLD[victim], odd[:3]
    assert all(call.status == 503 for call in odd if call.how == "refused"), odd[:3]
    broken = [call for call in odd if call.how == "broken"]
    assert not broken or victim == "web", broken[:3]
    assert all(call.ended_at > killed_at for call in odd), "something went wrong before anything was done"


def _what_they_heard_is_what_stands_in_the_ledger(
    whole: Whole, said: list[Said], victim: str, killed_at: float
) -> None:
    answered = [call.request for call in said if call.how == "answer"]
    assert len(set(answered)) == len(answered), "one request answered two calls"
    rows = dict(whole.rows("SELECT id::text, state FROM ledger_request WHERE lane <> 'batch'"))
    lost = [
        call
        for call in said
        if call.how == "answer"
        and call.request not in rows
        # What was never accepted, only to be recorded, may die with its gateway: its client saw the answer.
        and not (victim == "web" and not call.keyed and abs(call.ended_at - killed_at) < 1)
    ]
    assert not lost, lost[:3]
    assert {rows.get(call.request, "done") for call in said if call.how == "answer"} == {"done"}
    told = [call for call in said if call.how == "event" and call.code == "replica_lost"]
    assert {rows[call.request] for call in told} <= {"failed"}
