"""The Celery application. Celery carries "look now", never work (DESIGN §2): no results, short expiry."""

from __future__ import annotations

import os

from celery import Celery

from portal.config import config

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

TICK = "scheduler.tick"
BATCHES = "scheduler.batches"
BATCHES_S = 5.0  # seconds between looks at batches when nothing wakes one
FILES = "scheduler.files"
USAGE = "scheduler.usage"
USAGE_S = 20.0  # a few thousand deltas in a busy hour
NOTICES = "scheduler.notices"

app = Celery("berth", broker=config().redis_url)
app.conf.update(
    imports=["scheduler.tasks"],
    task_ignore_result=True,
    task_default_queue=f"berth-{config().instance}",
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    # A lost broker costs seconds: keep trying for ever.
    broker_connection_max_retries=None,
    timezone="UTC",
    beat_schedule={
        "tick": {
            "task": TICK,
            "schedule": config().tick_s,
            "options": {"expires": max(config().tick_s * 2, 5)},
        },
        "batches": {"task": BATCHES, "schedule": BATCHES_S, "options": {"expires": 2 * BATCHES_S}},
        "usage": {"task": USAGE, "schedule": USAGE_S, "options": {"expires": USAGE_S}},
        "notices": {
            "task": NOTICES,
            "schedule": config().notices_s,
            "options": {"expires": max(config().notices_s, 5)},
        },
        "files": {"task": FILES, "schedule": 3600.0, "options": {"expires": 3600.0}},
    },
)
