"""The fences of docs/design.md §7 hold, and each catches a violation that is planted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit import fences
from tests.unit.fences import ROOT

# One planted line per contract of .importlinter: (contract, file, line).
PLANTED = [
    ("The gpuworker knows nothing of the portal", "gpuworker/plan.py", "import celery"),
    (
        "The portal knows nothing of the scheduler",
        "portal/fleet/phase.py",
        "import scheduler.policy.autoscale",
    ),
    ("Portal and scheduler know of the gpuworker only the wire", "portal/errors.py", "import gpuworker.row"),
    (
        "Only portal.asgi imports the gateway",
        "portal/services/access.py",
        "import portal.gateway.wait_headers",
    ),
    ("Gateway, worker API and transitions know no Django", "portal/admission/slots.py", "import django.conf"),
    ("What people may ask", "portal/services/moments.py", "import rest_framework.request"),
    ("Neither the data plane nor a tick", "scheduler/act/dispatch.py", "import portal.notices.look"),
    ("Policies import no clock", "scheduler/policy/autoscale.py", "import time"),
    ("Within portal and scheduler only scheduler.slurm", "scheduler/act/dispatch.py", "import subprocess"),
    ("The portal reads top-down", "portal/fleet/times.py", "import portal.services.access"),
    ("The scheduler reads top-down", "scheduler/observe/listing.py", "import scheduler.act.dispatch"),
]


def lint_imports(root: Path) -> str:
    """Return import-linter's report on the tree at `root`, one line per contract, its white space folded."""
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ran.stdout + ran.stderr


def copy_tree(to: Path) -> None:
    for room in ("portal", "scheduler", "gpuworker"):
        shutil.copytree(ROOT / room, to / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", to)


def verdicts(report: str) -> dict[str, bool]:
    """Read from a report whether each contract was kept."""
    lines = [line.strip() for line in report.splitlines()]
    ends = {"KEPT": True, "BROKEN": False}
    return {line: ends[word] for line in lines for word in ends if line.partition(" (")[0].endswith(word)}


def test_every_import_fence_holds_and_catches_what_is_planted(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    whole = verdicts(lint_imports(tmp_path))
    assert len(whole) == len(PLANTED), "a contract without a planted violation, or one that was not checked"
    assert all(whole.values()), whole
    for _, file, line in PLANTED:
        path = tmp_path / file
        path.write_text(path.read_text() + f"\n{line}\n")
    beside = tmp_path / "scheduler/policy/staging.py"
    beside.write_text(beside.read_text() + "\nimport portal.fleet.phase\n")
    report = lint_imports(tmp_path)
    broken = verdicts(report)
    for contract, file, line in PLANTED:
        caught = [not kept for name, kept in broken.items() if name.startswith(contract)]
        assert caught == [True], f"{line!r} in {file} was not caught by {contract!r}: {broken}"
    assert "scheduler.policy.staging -> portal.fleet.phase" in report, "more than the states is let through"


@pytest.mark.parametrize(
    ("check", "rooms"),
    [
        (fences.state_writes, ("portal", "scheduler")),
        (fences.process_starts, ("portal", "scheduler")),
        (fences.decision_writes, ("portal", "scheduler")),
        (fences.rows_by_position, ("portal", "scheduler")),
        (fences.foreign_imports, ("scheduler/policy", "portal/policy")),
        (fences.spelled_keys, ("portal", "scheduler", "gpuworker", "bin/devstack", "tests")),
        (
            fences.foreign_imports,
            ("portal/fleet/states.py", "portal/fleet/decision_kinds.py", "portal/ledger/states.py"),
        ),
    ],
)
def test_every_source_fence_holds(check: Callable[[str, str], list[str]], rooms: tuple[str, ...]) -> None:
    suffixes = (".py", ".lua") if check is fences.spelled_keys else (".py",)
    seen = [module for module in fences.modules(*rooms) if module[0].endswith(suffixes)]
    assert {Path(path).suffix for path, _ in seen} == set(suffixes), "nothing was read"
    assert [line for path, source in seen for line in check(path, source)] == []


@pytest.mark.parametrize(
    "line",
    [
        "Pilot.objects.filter(id=1).update(state='up')",
        "Request.objects.create(state='queued')",
        "cur.execute('UPDATE fleet_pilot SET node = 1, state = %s', ('up',))",
        "cur.execute('insert into ledger_request (id) values (1)')",
        "pilot.state = 'ended'",
        "cur.execute(\"UPDATE ledger_batch SET total = 1, state = 'failed'\")",
    ],
)
def test_a_planted_state_write_is_caught(line: str) -> None:
    assert fences.state_writes("portal/api/x.py", line)
    assert not fences.state_writes("portal/fleet/transitions.py", line)
    assert not fences.state_writes("portal/ledger/transitions/end.py", line)
    assert fences.state_writes("portal/ledger/transitions_of.py", line)


@pytest.mark.parametrize(
    "line", ["import subprocess", "os.system('ls')", "asyncio.create_subprocess_exec('ls')"]
)
def test_a_planted_process_start_is_caught(line: str) -> None:
    assert fences.process_starts("portal/api/x.py", line)
    assert not fences.process_starts("scheduler/slurm/x.py", line)


@pytest.mark.parametrize(
    "line",
    [
        "from portal.fleet.models import Decision\nDecision.objects.create(kind='pause')",
        "from portal.fleet.models import Decision as Row\nRow.objects.filter(pk=1).update(reason='')",
        "from portal.fleet.models import Decision\nDecision(kind='pause').save()",
        "cur.execute('INSERT INTO fleet_decision (kind) VALUES (%s)', ('pause',))",
    ],
)
def test_a_planted_decision_row_is_caught(line: str) -> None:
    assert fences.decision_writes("scheduler/observe/x.py", line)
    assert not fences.decision_writes("scheduler/act/decision_rows.py", line)


def test_reading_decision_rows_is_no_write() -> None:
    line = "from portal.fleet.models import Decision\nrows = Decision.objects.filter(kind='pause').order_by('id')"
    assert not fences.decision_writes("portal/services/x.py", line)


@pytest.mark.parametrize(
    "line",
    [
        "import django",
        "from portal.config import config",
        "import scheduler.act",
        "import scheduler.policy_of",
        "from portal.fleet.models import Pilot",
        "from portal.fleet import states",
        "from portal.ledger.states import Lane",
    ],
)
def test_a_planted_import_of_a_policy_is_caught(line: str) -> None:
    assert fences.foreign_imports("scheduler/policy/x.py", line)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("portal/gateway/x.py", "redis.get('berth:epoch')"),
        ("scheduler/observe/x.py", "redis.mget([f'berth:sync:{pilot}' for pilot in pilots])"),
        ("portal/workerapi/x.py", "redis.hset(f'berth:{{{pool}}}:routes', replica, route)"),
        ("tests/flow/x.py", "redis.zcard(prefix + ':wait')"),
        ("portal/admission/lua/x.lua", "redis.call('PUBLISH', 'berth:gw:' .. owner, grant)"),
        ("portal/admission/lua/x.lua", "redis.call('ZADD', p .. ':slots:' .. replica, 1, request) -- a slot"),
    ],
)
def test_a_planted_key_is_caught(file: str, line: str) -> None:
    assert fences.spelled_keys(file, line)
    assert not fences.spelled_keys("portal/redis/keys.py", line)


def test_a_docstring_a_comment_and_other_words_may_name_a_key() -> None:
    assert not fences.spelled_keys(
        "portal/x.py", '"""berth:epoch is the name of a life."""\nsay("berth: no tool")\n'
    )
    assert not fences.spelled_keys(
        "portal/admission/lua/x.lua", "-- 'berth:gw:' is the channel\nlocal a = ':newest'"
    )


def test_a_policy_may_know_the_states_of_the_fleet_and_nothing_else_of_it() -> None:
    assert not fences.foreign_imports("scheduler/policy/x.py", "from portal.fleet.states import PilotState")


@pytest.mark.parametrize("line", ["import django", "from portal.fleet.models import Pilot"])
def test_a_planted_import_of_the_states_is_caught(line: str) -> None:
    assert fences.foreign_imports("portal/fleet/states.py", line)


@pytest.mark.parametrize(
    "line",
    [
        "total = sum(row[8] for row in cur.fetchall())",
        "row = cur.fetchone()\nname = row[2]",
        "moved = execute_values(cur, 'X', rows, fetch=True)\nfor m in moved:\n    print(m[3])",
        "found = [_replica(*row) for row in cur.fetchall()]",
        "row = cur.fetchone()\nfound = Row(*row)",
        "for a, b, c, d, e, f, g in cur.fetchall():\n    pass",
        "a, b, c, d, e, f, g = cur.fetchone() or (None,) * 7",
        "cur.execute('SELECT a FROM t WHERE b = X'.replace('X', 'c'))",
        "cur.execute('UPDATE t SET a = {}'.format(1))",
    ],
)
def test_a_planted_row_by_position_is_caught(line: str) -> None:
    assert fences.rows_by_position("portal/api/x.py", line)
    assert not fences.rows_by_position("portal/db/rows.py", line)


@pytest.mark.parametrize(
    "line",
    [
        "(count,) = cur.fetchone()",
        "for id_, state in cur.fetchall():\n    print(id_, state)",
        "rows = named(cur, Row)\nfor row in rows:\n    print(row.name)",
        "cells = [('a', 1, 2)]\nfor cell in cells:\n    print(cell[2])",
        "text = 'Take one from the shelf'.replace('one', 'two')",
        "names = line.split()\nprint(names[4])",
    ],
)
def test_rows_by_name_and_what_is_no_row_pass(line: str) -> None:
    assert not fences.rows_by_position("portal/api/x.py", line)
