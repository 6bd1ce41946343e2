"""A whole Berth on a private Slurm, as the tests see it: ask it, look into its tables, kill its parts.

Everything is real, web, worker and beat as processes of their own; the engine is `echo`, whose load time and
speed are settings, so that each step of a request's way can be held open long enough to be hit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from devstack import ask
from devstack.berth import Berth
from devstack.procs import wait_until
from devstack.say import StepFailed
from devstack.slurm import Slurm

POOL = "echo"
# Beside the usual one: two whose jobs give way to it, at once or a minute later, and one with a short limit.
_COMMON = "Nodes=ALL DefaultTime=5 State=UP"
PARTITIONS = (
    f"PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF MaxTime=240 {_COMMON}",
    f"PartitionName=spare PriorityTier=1 PreemptMode=CANCEL GraceTime=0 MaxTime=240 {_COMMON}",
    f"PartitionName=grace PriorityTier=1 PreemptMode=CANCEL GraceTime=60 MaxTime=240 {_COMMON}",
    f"PartitionName=short PriorityTier=10 PreemptMode=OFF MaxTime=5 {_COMMON}",
)
# As in production, only faster: each of these is a wait that a person would not want in a test.
QUICK = {
    "BERTH_TICK_S": "1",
    "BERTH_SYNC_INTERVAL_S": "0.5",
    "BERTH_ALIVE_S": "6",
    "BERTH_SILENT_CANCEL_S": "9",
    "BERTH_REGISTER_S": "20",
    "BERTH_ORPHAN_GRACE_S": "4",
    "BERTH_HOLDER_STALE_S": "4",
    "BERTH_HEARTBEAT_S": "1",
    "BERTH_LAUNCH_BACKOFF_S": "0.2",
    "BERTH_PILOT_IDLE_S": "1",
    "BERTH_HAND_OVER_MARGIN_S": "30",
    "BERTH_LEASE_WAIT_S": "2",
    "BERTH_NOTICES_S": "1",
}
WORDS = "one two three four five six seven eight nine ten eleven twelve"


@dataclass
class Held:
    """A streaming request on a connection, in a thread of its own. `answer` or `error` once it ended."""

    answer: ask.Answer | None = None
    error: str = ""
    heard: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None

    def result(self, timeout_s: float = 240) -> str:
        assert self.thread is not None
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "the held request has no end"
        return self.answer.text if self.answer else f"error: {self.error}"


class Whole:
    """A running Berth and the means to look at it and to hurt it."""

    def __init__(self, berth: Berth) -> None:
        self.berth = berth
        self.site = berth.site
        assert berth.stack.slurm is not None
        self.slurm: Slurm = berth.stack.slurm
        self._dsn = berth.stack.env()["BERTH_DATABASE_URL"]

    # -- asking ------------------------------------------------------------------------------------------

    def ask(self, text: str = WORDS) -> Held:
        held = Held()

        def run() -> None:
            try:
                held.answer = ask.ask(self.site.url, self.berth.token, POOL, text, held.heard.append)
            except StepFailed as failure:
                held.error = str(failure)

        held.thread = threading.Thread(target=run, daemon=True)
        held.thread.start()
        return held

    def post(self, text: str = WORDS) -> str:
        """Post a detached request; return its id."""
        body = {"model": POOL, "messages": [{"role": "user", "content": text}], "max_tokens": 64}
        asked = {"model": POOL, "api": "/v1/chat/completions", "body": body}
        request = urllib.request.Request(
            f"{self.site.url}/api/v1/requests",
            json.dumps(asked).encode(),
            {"Authorization": f"Bearer {self.berth.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["id"])

    def detail(self, request_id: str) -> dict[str, Any]:
        return ask.get_json(self.site.url, self.berth.token, f"/api/v1/requests/{request_id}")

    def text_of(self, request_id: str) -> str:
        """Return the answer of a detached request that ended."""
        result = self.detail(request_id)["result"]
        return str(result["choices"][0]["message"]["content"])

    def model(self) -> dict[str, Any]:
        listing = ask.get_json(self.site.url, self.berth.token, "/v1/models")
        found: dict[str, Any] = next(model for model in listing["data"] if model["id"] == POOL)
        return found

    # -- looking -----------------------------------------------------------------------------------------

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        link = psycopg2.connect(self._dsn)
        try:
            with link, link.cursor() as cur:
                cur.execute(sql, values)
                return cur.fetchall() if cur.description else []
        finally:
            link.close()

    def one(self, sql: str, *values: Any) -> Any:
        found = self.rows(sql, *values)
        return found[0][0] if found else None

    def until(self, probe: Callable[[], Any], timeout_s: float = 180, what: str = "") -> None:
        def tried() -> bool:
            try:
                return bool(probe())
            except (StepFailed, OSError):
                return False  # web is being restarted

        assert wait_until(tried, timeout_s), f"{what or 'the condition'} did not come in {timeout_s:.0f} s"

    def replica_is(self, state: str) -> bool:
        return bool(self.one("SELECT count(*) FROM fleet_replica WHERE state = %s", state))

    def jobs(self) -> set[int]:
        """Return every job of ours that Slurm still knows, ended ones included."""
        out = self.slurm.run("squeue", "-a", "-h", "-t", "all", "-o", "%A")
        return {int(word) for word in out.split()}

    def live_jobs(self) -> set[int]:
        out = self.slurm.run("squeue", "-a", "-h", "-o", "%A")
        return {int(word) for word in out.split()}

    def story(self, since: int) -> list[str]:
        """Return decisions after the one numbered `since`, as "kind: reason", oldest first."""
        sql = "SELECT kind || ': ' || reason FROM fleet_decision WHERE id > %s ORDER BY id"
        return [row[0] for row in self.rows(sql, since)]

    def last_decision(self) -> int:
        return int(self.one("SELECT coalesce(max(id), 0) FROM fleet_decision"))

    def pilot(self, job: int) -> dict[str, Any]:
        """Return one pilot's row, in words that a test asks for."""
        names = ("state", "end_reason", "node", "slurm_state", "slurm_reason", "walltime_min", "id")
        found = self.rows(f"SELECT {', '.join(names)} FROM fleet_pilot WHERE job_id = %s", job)
        assert found, f"no pilot has job {job}"
        return dict(zip(names, found[0], strict=True))

    def failures(self) -> int:
        """Return the failed launches in a row of the pool."""
        return int(self.one("SELECT failures FROM fleet_poolstate WHERE pool_id = %s", POOL) or 0)

    def ticks(self, number: int) -> None:
        """Wait for so many further passes of the loop."""
        for _ in range(number):
            before = self.one("SELECT ticked_at FROM fleet_cluster")
            self.until(lambda b=before: self.one("SELECT ticked_at FROM fleet_cluster") != b, what="a tick")  # type: ignore[misc]

    # -- arranging ---------------------------------------------------------------------------------------

    def tune(self, *, keep_alive_s: int = 600, load_limit_s: int = 60, cap: int = 64, **args: Any) -> None:
        """Tune how the echo engine behaves from its next start on."""
        self.rows(
            "UPDATE catalog_pool SET args = %s, keep_alive_s = %s, load_limit_s = %s, cap = %s WHERE name = %s",
            json.dumps(args), keep_alive_s, load_limit_s, cap, POOL,
        )  # fmt: skip

    def empty(self) -> None:
        """Empty the fleet, which is where each scenario begins.

        There is no job, no live pilot, no live request, no model wanted awake, no node left out.
        """
        self.rows("UPDATE fleet_poolstate SET interest_until = NULL")
        live = "SELECT count(*) FROM ledger_request WHERE state IN ('queued', 'running')"
        self.until(lambda: self.one(live) == 0, what="an empty queue")
        self.slurm.cancel_jobs()
        self.until(lambda: self.one("SELECT count(*) FROM fleet_pilot WHERE state <> 'ended'") == 0)
        # What failed on a node is forgiven, without a row that says so.
        self.rows("UPDATE fleet_badnode SET excluded_until = now(), failures = 0")
        self.until(lambda: self.site.get("/readyz") == 200)

    def relaunch(self) -> None:
        """Give the command that an operator gives once what failed has been mended."""
        self.command("relaunch", POOL)

    @contextlib.contextmanager
    def profile(self, name: str = "demo", **columns: Any) -> Iterator[None]:
        """Give the profile other values for a while; one that does not exist is made like `demo`, for the
        pool."""
        new = not self.one("SELECT count(*) FROM catalog_profile WHERE name = %s", name)
        if new:
            self._copy_profile(name)
        kept = self.rows(f"SELECT {', '.join(columns)} FROM catalog_profile WHERE name = %s", name)[0]
        self._set_profile(name, columns)
        try:
            yield
        finally:
            self._set_profile(name, dict(zip(columns, kept, strict=True)))
            self.rows(
                """DELETE FROM fleet_profilestate WHERE profile_id IN (SELECT id FROM catalog_profile WHERE name = %s)""",
                name,
            )
            if new:
                self._set_profile(name, {"enabled": False})

    def _set_profile(self, name: str, columns: dict[str, Any]) -> None:
        words = ", ".join(f"{column} = %s" for column in columns)
        self.rows(f"UPDATE catalog_profile SET {words} WHERE name = %s", *columns.values(), name)

    def _copy_profile(self, name: str) -> None:
        found = self.rows(
            """SELECT column_name FROM information_schema.columns
               WHERE table_name = 'catalog_profile' AND column_name NOT IN ('id', 'name')"""
        )
        columns = ", ".join(f'"{column}"' for (column,) in found)
        self.rows(
            f"""INSERT INTO catalog_profile (name, {columns})
                SELECT %s, {columns} FROM catalog_profile WHERE name = 'demo'""",
            name,
        )
        self.rows(
            """INSERT INTO catalog_pool_profiles (pool_id, profile_id)
               SELECT %s, id FROM catalog_profile WHERE name = %s""",
            POOL,
            name,
        )

    def command(self, kind: str, pool: str | None = None, **args: Any) -> str:
        """Give a command, wait until the loop has dealt with it, and return its result."""
        number = self.one(
            """INSERT INTO fleet_command (kind, pool_id, args, state, result, created_at)
               VALUES (%s, %s, %s, 'pending', '', now()) RETURNING id""",
            kind, pool, json.dumps(args),
        )  # fmt: skip
        self.until(
            lambda: self.one("SELECT state FROM fleet_command WHERE id = %s", number) != "pending",
            what=f"the command {kind}",
        )
        state, result = self.rows("SELECT state, result FROM fleet_command WHERE id = %s", number)[0]
        assert state == "done", result
        return str(result)

    def hold_nodes(self, *, held: bool) -> None:
        """Hold nodes, or let them go: held nodes start no job, so that it stays pending."""
        change = ("State=DRAIN", "Reason=test") if held else ("State=RESUME",)
        self.slurm.run("scontrol", "update", "NodeName=ALL", *change)

    # -- hurting -----------------------------------------------------------------------------------------

    def kill(self, victim: str) -> None:
        """Send SIGKILL. What supervises it in life (systemd, the job's supervisor, us) starts it again."""
        if victim == "redis":
            redis = self.berth.stack.redis
            assert redis is not None
            redis.kill()
            redis.start_server()
        elif victim == "agent":
            os.kill(self._pid_of("gpuworker.agent"), signal.SIGKILL)
        elif victim == "job":
            os.kill(self._pid_of("-m\0gpuworker\0"), signal.SIGKILL)
        else:
            os.killpg(self.site.pid(victim), signal.SIGKILL)

    def _pid_of(self, words: str) -> int:
        """Find the one process of our spool whose command line has `words`.

        One that starts another bears its own words twice for a moment, until the other is what it shall be.
        """
        found: list[int] = []

        def only_one() -> bool:
            found[:] = self._pids_of(words)
            return len(found) == 1

        assert wait_until(only_one, 10), f"{words!r} runs {len(found)} times"
        return found[0]

    def _pids_of(self, words: str) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_text()
            except OSError:
                continue
            if words in line and str(self.site.run_dir) in line:
                yield int(entry.name)
