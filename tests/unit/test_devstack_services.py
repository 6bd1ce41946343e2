"""Private PostgreSQL and Redis: found again with their data, gone with their process, never root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from devstack import ports, proctable
from devstack.postgres import Postgres
from devstack.procs import wait_until
from devstack.redis import Redis
from devstack.say import SILENT, StepFailed
from devstack.stack import Stack


def test_a_durable_postgres_keeps_its_data_and_password_over_a_crash(tmp_path: Path) -> None:
    first = Postgres(tmp_path / "postgres").start()
    assert first._psql("CREATE TABLE kept (n int)", "berth").returncode == 0
    before, pid = first.dsn.split("@")[0], first.pid
    owner = Path(f"/proc/{pid}").stat().st_uid
    assert owner != 0
    assert first._child is not None
    first._child.kill()
    # A pid that meanwhile belongs to somebody else must not keep the server from starting.
    (first._data / "postmaster.pid").write_text(f"{os.getpid()}\n")
    first.stop()
    with Postgres(tmp_path / "postgres") as second:
        assert second.dsn.split("@")[0] == before
        assert second._psql("SELECT count(*) FROM kept", "berth").stdout.strip() == "0"
        second.keep = False  # nothing of this test shall stay in /var/tmp
    assert not second._data.exists()


def test_a_throw_away_postgres_leaves_nothing(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", durable=False).start()
    home, port, pid = postgres._home, postgres.port, postgres.pid
    assert postgres._psql("SHOW fsync").stdout.strip() == "off"
    assert (home / "data").exists()
    postgres.stop()
    assert not (home / "data").exists()
    assert not ports.accepts(port)
    assert proctable.start_ticks(pid) is None


def test_a_stranger_without_the_password_is_refused(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres", durable=False) as postgres:
        known, postgres._password = postgres._password, "guess"
        assert "password authentication failed" in postgres._psql("SELECT 1").stderr
        postgres._password = known
        assert postgres._psql("SELECT 1").returncode == 0


def test_a_killed_redis_returns_empty_at_the_same_address(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as redis:
        url, pid = redis.url, redis.pid
        redis.kill()
        assert proctable.start_ticks(pid) is None
        assert not ports.accepts(redis.port)
        redis.start_server()
        assert redis.url == url
        assert wait_until(lambda: ports.accepts(redis.port), 30)
    assert not ports.accepts(redis.port)


def test_a_service_that_cannot_start_takes_down_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(tmp_path, SILENT, durable=False)
    assert stack.postgres is not None
    assert stack.redis is not None

    def fail() -> Redis:
        raise StepFailed("no port")

    monkeypatch.setattr(stack.redis, "start", fail)
    with pytest.raises(StepFailed, match="no port") as failed, stack:
        raise AssertionError("must not come up")
    assert failed.value.step == "Start Redis"
    assert not ports.accepts(stack.postgres.port)
