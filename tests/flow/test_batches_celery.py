"""Celery's part in batches: tasks known by name, sent by the beat, one look at a time."""

from __future__ import annotations

import time

import psycopg2
import pytest

from portal.batches import passes
from portal.celery import BATCHES, FILES, app
from portal.config import config
from portal.db.transaction import BATCH_LOCK
from scheduler import tasks


@pytest.mark.django_db(transaction=True)
def test_one_process_looks_at_a_time(test_dsn: str) -> None:
    other = psycopg2.connect(test_dsn)
    with other.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(%s)", (BATCH_LOCK,))
        assert not passes.look(config(), time.time())
        cur.execute("SELECT pg_advisory_unlock(%s)", (BATCH_LOCK,))
    other.close()
    assert passes.look(config(), time.time())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("name", "work"), [(BATCHES, "look"), (FILES, "retain")])
def test_the_beat_sends_what_the_worker_knows(name: str, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app.tasks[name]()
    assert app.tasks[name].ignore_result
    (entry,) = [entry for entry in app.conf.beat_schedule.values() if entry["task"] == name]
    assert entry["options"]["expires"] > 0
    done: list[object] = []
    monkeypatch.setattr(tasks, work, lambda *_: done.append(1))
    app.tasks[name]()
    assert done
