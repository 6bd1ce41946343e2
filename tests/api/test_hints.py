"""Wake-ups may be lost: with Redis away they are said in the log, soon, and nothing fails (invariant 10)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import redis as redis_library
from devstack.ports import free_port

from portal.celery import TICK, app

SCRIPT = """
import time, uuid
from portal.redis import hints
began = time.monotonic()
hints.directory_changed()
hints.rows_waiting("surf")
hints.cancelled("gw-1", uuid.uuid4(), 1)
print(time.monotonic() - began)
"""


def test_redis_away_holds_nobody_up_and_fails_nothing() -> None:
    env = os.environ | {"BERTH_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10
    for whom in ("gateways of a changed directory", "pilots of surf", "the control loop", "gateway gw-1"):
        assert f"could not tell {whom}" in done.stderr


def test_a_wake_up_of_the_loop_is_a_task_that_expires(redis: redis_library.Redis) -> None:
    env = os.environ | {"BERTH_REDIS_URL": os.environ["BERTH_TEST_REDIS_URL"]}
    subprocess.run(
        [sys.executable, "-c", "from portal.redis import hints; hints.tick_soon()"], env=env, check=True
    )
    (message,) = redis.lrange(app.conf.task_default_queue, 0, -1)
    headers = json.loads(message)["headers"]
    assert headers["task"] == TICK and headers["expires"] is not None
