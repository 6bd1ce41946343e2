"""Whatever order the moves come in: no request is lost, none ends twice, attempts only rise, counters agree."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from datetime import timedelta

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg2.extensions import connection as Connection

from portal.ledger import transitions as ledger
from portal.ledger.transitions import Finish, Grant, Interrupted
from tests.db.test_ledger_transitions import GATEWAY, NOW, REPLICA, new

POISON_AFTER = 3
PILOTS = (str(uuid.UUID(int=1)), str(uuid.UUID(int=2)))
LIVE = ("queued", "running")


class Ledger(RuleBasedStateMachine):
    """Drive the real SQL beside what each holder believes it has; beliefs may be stale, as in life."""

    link: Connection

    @initialize()
    def begin(self) -> None:
        self.link.rollback()
        self.accepted: set[uuid.UUID] = set()
        self.ended: dict[uuid.UUID, str] = {}
        self.attempts: dict[uuid.UUID, int] = {}
        self.beliefs: list[tuple[uuid.UUID, int, str]] = []
        self.cur = self.link.cursor()

    def teardown(self) -> None:
        self.link.rollback()

    @rule(lanes=st.lists(st.sampled_from(["held", "async"]), min_size=1, max_size=4), key=st.integers(0, 5))
    def accept(self, lanes: list[str], key: int) -> None:
        rows = [new(lane, float(key)) for lane in lanes]
        self.accepted |= set(ledger.accept(self.cur, rows))

    @rule(seed=st.integers(0, 99))
    def grant(self, seed: int) -> None:
        ids = random.Random(seed).sample(sorted(self.accepted), min(3, len(self.accepted)))
        moved = ledger.grant(self.cur, [Grant(i, GATEWAY, REPLICA) for i in ids], NOW)
        self.beliefs += [(i, granted.attempt, GATEWAY) for i, granted in moved.items()]

    @rule(pilot=st.sampled_from(PILOTS), room=st.integers(1, 3), idle=st.booleans())
    def claim(self, pilot: str, room: int, idle: bool) -> None:
        got = ledger.claim(self.cur, holder=pilot, pool="m", replica=REPLICA, room=room, now=NOW, idle=idle)
        assert len(got) <= room
        assert not any(c.alone for c in got) or (len(got) == 1 and idle)
        self.beliefs += [(c.id, c.attempt, pilot) for c in got]

    @rule(seed=st.integers(0, 99), crashed=st.booleans())
    def interrupt(self, seed: int, crashed: bool) -> None:
        for id_, attempt, holder in self._some(seed):
            _, poisoned = ledger.interrupt(
                self.cur, [Interrupted(id_, attempt, holder, "x", crashed)], NOW, POISON_AFTER
            )
            self._end(poisoned, "failed")

    @rule(seed=st.integers(0, 99), state=st.sampled_from(["done", "cancelled"]))
    def finish(self, seed: int, state: str) -> None:
        rows = [
            Finish(i, attempt, holder, state, NOW, result=b"r") for i, attempt, holder in self._some(seed)
        ]
        latest = {row.id: row for row in rows}
        self._end(ledger.finish(self.cur, list(latest.values())), state)

    @rule(seed=st.integers(0, 99))
    def cancel(self, seed: int) -> None:
        ids = random.Random(seed).sample(sorted(self.accepted), min(2, len(self.accepted)))
        self._end([c.id for c in ledger.cancel(self.cur, ids, NOW, "x")], "cancelled")

    @rule()
    def gateway_dies(self) -> None:
        ledger.detach(self.cur, NOW, NOW + timedelta(seconds=30))

    @rule(pilot=st.sampled_from(PILOTS))
    def pilot_ends(self, pilot: str) -> None:
        ledger.release(self.cur, uuid.UUID(pilot), NOW, "gone")

    def _some(self, seed: int) -> list[tuple[uuid.UUID, int, str]]:
        return random.Random(seed).sample(self.beliefs, min(3, len(self.beliefs)))

    def _end(self, ids: list[uuid.UUID], state: str) -> None:
        for id_ in ids:
            assert id_ not in self.ended, "a request ended twice"
            self.ended[id_] = state

    @invariant()
    def nothing_is_lost(self) -> None:
        self.cur.execute("SELECT id, state, attempt, lane, holder FROM ledger_request")
        rows = {uuid.UUID(str(r[0])): r for r in self.cur.fetchall()}
        assert rows.keys() == self.accepted
        for id_, (_, state, attempt, _, _) in rows.items():
            assert (state in LIVE) == (id_ not in self.ended)
            assert id_ not in self.ended or state == self.ended[id_]
            assert attempt >= self.attempts.get(id_, 0), "an attempt fell"
            self.attempts[id_] = attempt
        counted = Counter(("m", r[3], r[1]) for r in rows.values() if r[1] in LIVE)
        assert ledger.fold_depth(self.cur) == dict(counted)

    @invariant()
    def live_requests_have_their_payload(self) -> None:
        self.cur.execute(
            """SELECT count(*) FROM ledger_request r LEFT JOIN ledger_payload p ON p.request = r.id
               WHERE r.state IN ('queued', 'running') AND p.request IS NULL"""
        )
        assert self.cur.fetchone() == (0,)


def test_no_order_of_moves_loses_or_doubles_a_request(pg: Connection) -> None:
    class Bound(Ledger):
        link = pg

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
