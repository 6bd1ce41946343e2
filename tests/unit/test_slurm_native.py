"""The native client: pyslurm's answers as values, and a helper that hangs, dies or babbles harms nobody."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.slurm.native import NativeClient
from scheduler.slurm.native_process import HELPER
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.render import render
from scheduler.slurm.way import Way
from tests.unit.fake_pyslurm import imports, interpreter, replan
from tests.unit.test_slurm_render import SPEC

JOBS = """
import pwd
NOBODY = pwd.getpwnam("nobody").pw_uid
def job(id, name, **k):
    return Thing(**{**dict(id=id, name=name, user_id=os.getuid(), user_name="berth", state="PENDING", state_reason=None,
        partition="gpu", allocated_nodes=None, submit_time=100, start_time=None, end_time=0,
        num_nodes=2), **k})
MANY["Jobs"] = {
    9: job(9, "berth-x-1", state="RUNNING", allocated_nodes="gpu01", start_time=105, end_time=405),
    7: job(7, "berth-x-1", state_reason="Priority"),
    8: job(8, "berth-x-1", user_id=NOBODY, user_name=None),
}
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., NativeClient]]:
    made: list[NativeClient] = []

    def one(plan: str = "", *, limit_s: float = 20.0, **way: Any) -> NativeClient:
        made.append(
            NativeClient(Way(kind="native", python=interpreter(tmp_path, plan), **way), limit_s=limit_s)
        )
        return made[-1]

    yield one
    for client in made:
        client.close()


Make = Callable[..., NativeClient]


def test_our_jobs_are_listed_by_name_the_lower_id_first(make: Make) -> None:
    found = make(JOBS).jobs()
    assert list(found) == ["berth-x-1"]
    pending, running = found["berth-x-1"]
    assert (pending.job_id, pending.reason, pending.started_at, pending.ends_at) == (
        7,
        "Priority",
        None,
        None,
    )
    assert (running.job_id, running.state, running.nodes, running.reason) == (9, "RUNNING", "gpu01", "None")
    assert (pending.node_count, running.node_count) == (2, 2)
    assert (running.submitted_at, running.started_at, running.ends_at) == (100.0, 105.0, 405.0)


def test_a_ways_user_is_whose_jobs_are_listed(make: Make) -> None:
    """By number: this one's name could not be looked up, and it must not look absent."""
    assert [info.job_id for info in make(JOBS, user="nobody").jobs()["berth-x-1"]] == [8]


def test_where_a_ways_user_is_not_known_there_is_no_answer(make: Make) -> None:
    with pytest.raises(NoAnswer, match=r"does not know the user mallory-of-elsewhere.*getent passwd"):
        make(JOBS, user="mallory-of-elsewhere").jobs()


def test_no_jobs_is_an_answer(make: Make) -> None:
    assert make().jobs() == {}


def test_a_submission_carries_fields_script_and_secret_and_nothing_of_the_helpers_environment(
    make: Make, tmp_path: Path
) -> None:
    client = make(conf="/etc/slurm/it's.conf")
    assert client.submit(render(SPEC), SPEC) == 77
    fields, leaked = json.loads((tmp_path / "pyslurm" / "submitted.json").read_text())
    assert leaked == {}
    assert fields["script"] == render(SPEC)
    assert fields["environment"]["BERTH_SECRET"] == SPEC.secret.text
    assert (fields["name"], fields["time_limit"], fields["is_requeueable"]) == (SPEC.name, 240, False)
    assert fields["signal"] == {"signal": 12, "time": 60, "batch_only": True}
    replan(tmp_path, 'called = lambda *a: open(HERE / "conf", "w").write(os.environ["SLURM_CONF"])')
    client.close()
    client.jobs()
    assert (tmp_path / "pyslurm" / "conf").read_text() == "/etc/slurm/it's.conf"


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        ("RPCError(2000, 'Invalid partition name specified')", Rejected),
        ("RPCError(2199, 'of a later release')", Rejected),
        ("ValueError('Only one of memory_per_cpu, memory_per_node can be set')", Rejected),
        ("RPCError(1800, 'Unable to contact slurm controller')", NoAnswer),
        ("RPCError(5004, 'Socket timed out')", NoAnswer),
        ("RPCError(1007, 'Protocol authentication error')", NoAnswer),
        ("RPCError(0, 'Success')", NoAnswer),
        ("RuntimeError('who knows')", NoAnswer),
    ],
)
def test_only_what_slurm_refused_is_a_refusal(make: Make, raised: str, error: type[Exception]) -> None:
    client = make(f"def called(*a): raise {raised}")
    with pytest.raises(error):
        client.submit(render(SPEC), SPEC)
    with pytest.raises(NoAnswer):
        client.jobs()


def test_cancelling_what_has_ended_is_no_error(make: Make) -> None:
    client = make("FAILS.update({7: 2021, 8: 2017, 9: 2002})")
    client.cancel([6, 7, 8])
    client.cancel([])


def test_a_cancellation_that_is_refused_is_no_silence_and_the_others_are_cancelled(
    make: Make, tmp_path: Path
) -> None:
    client = make(
        "FAILS.update({7: 2002, 8: 1802})\n"
        f"def called(*a): open({str(tmp_path / 'cancelled')!r}, 'a').write(f'{{a[-1]}} ')"
    )
    with pytest.raises(Rejected, match="job 7: no"):
        client.cancel([6, 7, 9])
    assert (tmp_path / "cancelled").read_text() == "6 7 9 "
    with pytest.raises(NoAnswer, match="cancel 8"):
        client.cancel([7, 8])


def test_partitions_and_reservations(make: Make) -> None:
    client = make(
        """
node = lambda state, gres: Thing(state=state, configured_gres=gres, total_cpus=8, real_memory=16000,
    available_features=["a100", "ib"], partitions=["gpu"])
part = lambda name, state, limit: Thing(name=name, state=state, max_time=limit)
MANY["Partitions"] = {"gpu": part("gpu", "UP", 240), "l": part("l", "DOWN", "UNLIMITED")}
idle = node("IDLE", {"gpu:a100": 4})
MANY["Nodes"] = {1: idle, 2: idle, 3: node("MIXED+DRAIN", {}), 4: node("DOWN*", {})}
MANY["Reservations"] = {"w": Thing(name="w", start_time=1000, end_time=4600, nodes="gpu[01-02]", partition=None,
    flags=["MAINT", Thing(name="ALL_NODES")], node_count=2)}
"""
    )
    found = client.partitions()
    assert (found["gpu"].up, found["gpu"].limit_min) == (True, 240)
    assert (found["l"].up, found["l"].limit_min) == (False, None)
    assert [(g.count, g.state, g.gres) for g in found["gpu"].groups] == [
        (1, "down*", ""), (1, "draining", ""), (2, "idle", "gpu:a100:4"),
    ]  # fmt: skip
    assert {g.features for g in found["gpu"].groups} == {("a100", "ib")}
    work = client.reservations()["w"]
    assert (work.starts_at, work.ends_at, work.flags, work.partition) == (
        1000.0,
        4600.0,
        "MAINT,ALL_NODES",
        "",
    )


def test_accounting_is_not_offered_where_there_is_none(make: Make, tmp_path: Path) -> None:
    client = make()
    for ask in (lambda: client.usage([7]), client.accounts, lambda: client.estimate_start(SPEC)):
        with pytest.raises(NotOffered):
            ask()
    with pytest.raises(NotOffered):
        client.forget("/spool/secret/x.json")
    replan(
        tmp_path,
        """
slurmctld.Config.accounting_storage_type = "accounting_storage/slurmdbd"
row = Thing(id=7, state="TIMEOUT", exit_code=0, exit_code_signal=15, elapsed_time=61, nodelist="gpu01")
db.Jobs.load = classmethod(lambda cls, f: {7: row})
MANY["Associations"] = {1: Thing(account="lab", qos=["normal", "long"]), 2: Thing(account="lab", qos=["quick"])}
""",
    )
    client.close()
    used = client.usage([7])[7]
    assert (used.state, used.exit_code, used.elapsed_s, used.nodes) == ("TIMEOUT", "0:15", 61, "gpu01")
    assert client.accounts() == {"lab": ["long", "normal", "quick"]}


def test_what_it_prints_is_no_answer(make: Make) -> None:
    babble = """
print('{"id": 1, "answer": []}')
os.write(1, b'{"id": 2, "answer": []}\\n')
def called(*a):
    os.system('echo from a child')
    print("x" * 200_000)
    sys.stderr.write("y" * 200_000)
"""
    found = make(babble + JOBS).jobs()
    assert len(found["berth-x-1"]) == 2


def test_a_call_that_does_not_return_is_ended_and_the_next_helper_answers(make: Make, tmp_path: Path) -> None:
    # As with munge frozen: not even a signal handler of Python's runs, and the output pipe stays open.
    client = make("import ctypes\ndef called(*a): ctypes.PyDLL(None).sleep(1000)", limit_s=2)
    with pytest.raises(NoAnswer, match="no answer within 2 s"):
        client.jobs()
    assert client.helper_pid is None
    replan(tmp_path, JOBS)
    with pytest.raises(NoAnswer, match=r"started again in 1 s; before: .*no answer within 2 s"):
        client.jobs()
    assert imports(tmp_path) == 1
    client._helper._not_before = 0.0
    assert len(client.jobs()["berth-x-1"]) == 2
    assert imports(tmp_path) == 2


def test_a_helper_that_stands_still_is_ended(make: Make) -> None:
    client = make(JOBS, limit_s=2)
    client.jobs()
    pid = client.helper_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(NoAnswer, match="no answer within 2 s"):
        client.jobs()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_helper_that_went_while_nobody_asked_is_no_silence(make: Make, tmp_path: Path) -> None:
    client = make(JOBS)
    client.jobs()
    process = client._helper._process
    assert process is not None
    process.kill()
    process.wait()
    assert len(client.jobs()["berth-x-1"]) == 2
    assert imports(tmp_path) == 2


def test_one_helper_answers_many_questions(make: Make, tmp_path: Path) -> None:
    client = make(JOBS)
    pids = {client.helper_pid for _ in range(3) if client.jobs()}
    assert len(pids) == 1
    assert imports(tmp_path) == 1


def test_the_pause_before_the_next_helper_grows_and_is_forgotten_after_an_answer(
    make: Make, tmp_path: Path
) -> None:
    client = make("sys.exit(1)")
    pauses = []
    for _ in range(9):
        client._helper._not_before = 0.0
        with pytest.raises(NoAnswer, match="ended with code 1"):
            client.jobs()
        pauses.append(round(client._helper._not_before - time.monotonic()))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    replan(tmp_path, JOBS)
    client._helper._not_before = 0.0
    client.jobs()
    assert client._helper._failures == 0


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            "os.write(2, b'fatal: Could not establish a configuration source'); os._exit(1)",
            "configuration source",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with code -11"),
        ("raise ImportError('libslurm.so.43: cannot open shared object file')", "libslurm.so.43"),
        ("os.close(0); os.close(2); os.execvp('true', ['true'])", "ended with code 0"),
    ],
)
def test_a_helper_that_ends_says_why(make: Make, plan: str, words: str) -> None:
    with pytest.raises(NoAnswer, match=words):
        make(plan).jobs()


def test_an_interpreter_that_is_none_is_no_answer(tmp_path: Path) -> None:
    for python, words in (("", "names no interpreter"), ("/does/not/exist", "not.*found|No such file")):
        client = NativeClient(Way(kind="native", python=python), limit_s=5)
        with pytest.raises(NoAnswer, match=words):
            client.jobs()
        client.close()
    client = NativeClient(Way(kind="native", python=sys.executable, prefix=("/does/not/exist",)), limit_s=5)
    with pytest.raises(NoAnswer, match="cannot start"):
        client.jobs()


def test_a_prefix_stands_before_it_and_a_shell_that_greets_is_no_answer(make: Make, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "Welcome to $1"; printf "half a line"; shift; exec "$@"\n')
    ssh.chmod(0o755)
    assert len(make(JOBS, prefix=(str(ssh), "login01")).jobs()["berth-x-1"]) == 2


def test_a_helper_whose_asker_is_gone_ends(make: Make, tmp_path: Path) -> None:
    python = interpreter(tmp_path, JOBS)
    helper = subprocess.Popen([python, str(HELPER), "mark "], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdin is not None and helper.stdout is not None
    assert helper.stdout.readline().startswith(b"mark ")
    helper.stdin.close()
    assert helper.wait(30) == 0
    helper.stdout.close()


def test_a_helper_that_hangs_behind_a_cut_connection_ends_by_itself(tmp_path: Path) -> None:
    python = interpreter(tmp_path, "import ctypes\ndef called(*a): ctypes.PyDLL(None).sleep(1000)")
    helper = subprocess.Popen([python, str(HELPER), "mark "], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    question = {"id": 1, "verb": "jobs", "limit_s": -4.5, "args": {"user": ""}}
    helper.communicate(json.dumps(question).encode() + b"\n", timeout=60)
    assert helper.returncode == -signal.SIGALRM


def test_the_helper_needs_no_more_than_the_standard_library_and_pyslurm() -> None:
    tree = ast.parse(HELPER.read_text(), feature_version=(3, 9))
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found <= sys.stdlib_module_names | {"pyslurm"}


def test_waiting_for_an_earlier_question_counts_within_the_limit(make: Callable[..., NativeClient]) -> None:
    client = make(JOBS, limit_s=0.5)
    helper = client._helper
    before = time.monotonic()
    with helper._lock, pytest.raises(NoAnswer, match=r"an earlier question took all of 0\.5 s"):
        client.submit(render(SPEC), SPEC)
    assert time.monotonic() - before < 5 and helper.pid is None, "nothing was begun"
