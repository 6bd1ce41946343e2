"""Celery's part: one task, woken by name, that keeps no result and expires."""

from __future__ import annotations

from unittest import mock

import pytest
import redis as redis_library

from portal.celery import TICK, app
from portal.fleet.models import Cluster
from portal.redis import keys
from scheduler import tasks


@pytest.mark.django_db(transaction=True)
def test_the_task_that_gateways_wake_by_name_is_a_tick(redis: redis_library.Redis) -> None:
    app.tasks[TICK]()
    assert Cluster.objects.get().ticked_at is not None


def test_a_wake_up_expires_and_keeps_no_result() -> None:
    assert app.tasks[TICK].ignore_result
    with mock.patch.object(app.tasks[TICK], "apply_async") as sent:
        tasks.wake()
    assert sent.call_args.kwargs["expires"] > 0
    assert app.conf.beat_schedule["tick"]["task"] == TICK
    assert app.conf.beat_schedule["tick"]["options"]["expires"] > 0


@pytest.mark.django_db(transaction=True)
def test_a_wake_up_that_finds_a_tick_running_makes_that_one_look_again(
    redis: redis_library.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, False])
    monkeypatch.setattr(tasks, "run_once", lambda *_: next(answers))
    app.tasks[TICK]()
    assert redis.get(keys.TICK_AGAIN.of())
    run = mock.Mock(return_value=True)
    monkeypatch.setattr(tasks, "run_once", run)
    app.tasks[TICK]()
    assert run.call_count == 2
    assert redis.get(keys.TICK_AGAIN.of()) is None


@pytest.mark.django_db(transaction=True)
def test_a_tick_that_ends_just_then_leaves_no_wake_up_behind(
    redis: redis_library.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True, True])
    monkeypatch.setattr(tasks, "run_once", lambda *_: next(answers))
    app.tasks[TICK]()
    assert redis.get(keys.TICK_AGAIN.of()) is None
