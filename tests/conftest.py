"""Services and settings for every layer of tests: real PostgreSQL and Redis, each test on clean tables.

`bin/test` exports BERTH_TEST_DATABASE_URL and BERTH_TEST_REDIS_URL; without them this file starts private
instances of its own, so plain `pytest` works too. Everything the settings read must stand in the environment
before Django is configured, hence at import.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_scratch = Path(tempfile.mkdtemp(prefix="berth-test-"))
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)

# Folders of tests are what a cluster's shared file system is: a node of the private cluster has a /tmp of its own.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/var/tmp")


def _start_own_services() -> tuple[str, str]:
    from devstack.postgres import Postgres

    postgres = Postgres(_scratch / "postgres", durable=False).start()
    atexit.register(postgres.stop)
    return postgres.dsn, _start_own_redis()


def _start_own_redis() -> str:
    from devstack.redis import Redis

    redis = Redis(_scratch / "redis").start()
    atexit.register(redis.stop)
    return redis.url


if "PYTEST_XDIST_WORKER" in os.environ and "BERTH_TEST_REDIS_URL" in os.environ:
    # Beside another process of the same run: pytest-django gives each a database of its own, and tests empty Redis.
    os.environ["BERTH_TEST_REDIS_URL"] = _start_own_redis()
if "BERTH_TEST_DATABASE_URL" not in os.environ:
    os.environ["BERTH_TEST_DATABASE_URL"], os.environ["BERTH_TEST_REDIS_URL"] = _start_own_services()

os.environ["BERTH_DATABASE_URL"] = os.environ["BERTH_TEST_DATABASE_URL"]
os.environ["BERTH_REDIS_URL"] = os.environ["BERTH_TEST_REDIS_URL"]
os.environ["BERTH_STATE_DIR"] = str(_scratch / "state")
os.environ["BERTH_SPOOL"] = str(_scratch / "spool")
os.environ["BERTH_SECURE_COOKIES"] = "false"
os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"

import django

django.setup()
# Not for the processes of a parallel run: pytest-django would read their settings before this file has set theirs.
del os.environ["DJANGO_SETTINGS_MODULE"]

import psycopg2
import pytest
import redis as redis_library
from devstack import berth, demomodel
from devstack.procs import wait_until
from devstack.say import Progress
from devstack.slurmconf import SlurmSpec
from django.db import connections
from django.test import TransactionTestCase
from hypothesis import HealthCheck, settings
from psycopg2.extensions import connection as Connection
from whitenoise.middleware import WhiteNoiseMiddleware  # type: ignore[import-untyped]

from tests import sinks
from tests.sinks import Mailbox
from tests.slurm.whole import PARTITIONS, QUICK, Whole

# The same examples in every run, so that a change is judged by what it changes. Look for new ones with
# `pytest --hypothesis-profile=default`, also before touching a policy. How long one takes is the machine's affair.
settings.register_profile(
    "everyday", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("everyday")

# What is cheap and says most comes first; the whole Berths, which take the machine's time as long as they live, last.
_ROOMS = ("unit", "db", "api", "flow", "e2e", "browser", "slurm")

_OURS = (
    "accounts_",
    "audit_",
    "account_",
    "socialaccount_",
    "catalog_",
    "fleet_",
    "ledger_",
    "notices_",
    "django_admin_log",
    "django_session",
)


def _empty_our_tables(case: TransactionTestCase) -> None:
    """Empty our tables, in place of Django's flush, which truncates every table and makes all permissions
    anew.

    For the few rows of a test, deleting takes a hundredth of the time. What migrations put into Django's own
    tables stays.
    """
    link = connections["default"]
    with link.cursor() as cur:
        tables = [name for name in link.introspection.table_names(cur) if name.startswith(_OURS)]
        # A replica's role checks no foreign keys and fires no triggers: the order does not matter.
        cur.execute("SET session_replication_role = replica")
        cur.execute(";".join(f'DELETE FROM "{name}"' for name in tables))
        cur.execute("SET session_replication_role = DEFAULT")


TransactionTestCase._fixture_teardown = _empty_our_tables  # type: ignore[attr-defined]

_static: dict[str, Any] = {}
_find_static = WhiteNoiseMiddleware.add_files_from_finders


def _static_once(self: Any) -> None:
    """Look at static files once: each of Django's test clients has middleware of its own, which would look
    at each anew."""
    if not _static:
        _find_static(self)
        _static.update(self.files)
    self.files = _static


WhiteNoiseMiddleware.add_files_from_finders = _static_once


@pytest.fixture
def redis() -> Iterator[redis_library.Redis]:
    """Give the run's Redis, empty."""
    client = redis_library.Redis.from_url(os.environ["BERTH_REDIS_URL"])
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """Name whoever still has a connection at the end: the database cannot be dropped under it."""
    yield
    connections.close_all()
    gc.collect()  # e.g. of threads that have ended
    link = psycopg2.connect(_dsn(connections["default"].settings_dict))
    link.autocommit = True
    left: list[tuple[str, str]] = []

    def nobody() -> bool:
        with link.cursor() as cur:
            cur.execute(
                "SELECT application_name, query FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            left[:] = cur.fetchall()
        return not left

    try:
        assert wait_until(nobody, 60), f"connections that nobody closed: {left}"
    finally:
        link.close()


@pytest.fixture
def test_dsn(transactional_db: None) -> str:
    """Address of the test database, for code that has its own connection (gateway, worker API)."""
    return _dsn(connections["default"].settings_dict)


def _dsn(settings: dict[str, Any]) -> str:
    return (
        f"postgresql://{settings['USER']}:{settings['PASSWORD']}@{settings['HOST']}:{settings['PORT']}"
        f"/{settings['NAME']}"
    )


@pytest.fixture
def pg(test_dsn: str) -> Iterator[Connection]:
    """Give a plain psycopg2 connection to the test database. Its rows are truncated after the test."""
    link = psycopg2.connect(test_dsn)
    yield link
    link.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _ROOMS.index(item.path.relative_to(Path(__file__).parent).parts[0]))


@pytest.fixture(scope="session")
def letters() -> Iterator[Mailbox]:
    """Give the mailbox of all that the whole Berth sends."""
    with sinks.mailbox() as box:
        yield box


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, letters: Mailbox) -> Iterator[Whole]:
    """Start one whole Berth for the tests that need every part of it. Its webhooks may go to loopback."""
    folder = tmp_path_factory.mktemp("whole")
    progress = Progress()
    model = demomodel.ensure(progress)
    spec = SlurmSpec(nodes=2, sched_interval_s=1, preemption=True, partitions=PARTITIONS)
    out = {
        "BERTH_MAIL_HOST": "127.0.0.1",
        "BERTH_MAIL_PORT": str(letters.port),
        "BERTH_WEBHOOK_PRIVATE": "true",
    }
    with berth.running(folder, model, progress, spec, QUICK | out) as running:
        yield Whole(running)
