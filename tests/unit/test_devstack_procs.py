"""Children: started apart, ended for certain, and never outliving the program that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import checkout, leash, ports, proctable
from devstack.procs import Child, Command, wait_until
from devstack.rundir import RunDir, reachable, substitute
from devstack.say import StepFailed

ENV = {"PATH": os.environ["PATH"]}
STUBBORN = "trap '' TERM; sleep 100 & echo ready; while :; do wait; done"


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    run_dir = RunDir(tmp_path / "service")
    run_dir.open()
    yield run_dir
    run_dir.close()


def shell(script: str, run_dir: RunDir, grace_s: float = 5.0) -> Child:
    return Child(Command("shell", ["sh", "-c", script], ENV, grace_s=grace_s), run_dir)


def gone(pid: int) -> bool:
    return proctable.start_ticks(pid) is None


def test_a_child_that_ignores_the_request_is_killed_with_its_group(run_dir: RunDir) -> None:
    child = shell(STUBBORN, run_dir, grace_s=0.3)
    child.wait_ready(lambda: "ready" in child.log.read_text(), 30)
    below = proctable.descendants({child.pid})
    child.stop()
    assert gone(child.pid)
    assert below
    # Nobody waits for those but init, which takes its time on a busy machine.
    assert wait_until(lambda: all(gone(pid) for pid in below), 30)
    assert list(run_dir.pid_dir.iterdir()) == []


def test_a_child_that_ends_while_starting_is_a_failed_step_with_its_log(run_dir: RunDir) -> None:
    child = shell("echo cannot bind; exit 3", run_dir)
    with pytest.raises(StepFailed, match="shell ended with status 3") as failed:
        child.wait_ready(lambda: False, 30)
    assert "cannot bind" in failed.value.text()


def test_a_child_that_is_never_ready_is_killed(run_dir: RunDir) -> None:
    child = shell("sleep 100", run_dir)
    with pytest.raises(StepFailed, match="not ready after"):
        child.wait_ready(lambda: False, 0.2)
    assert gone(child.pid)


def test_closing_the_folder_ends_processes_that_left_the_group(run_dir: RunDir) -> None:
    child = shell("setsid sh -c 'echo $$; exec sleep 100' & wait", run_dir)
    assert wait_until(lambda: child.log.read_text().strip().isdigit(), 30)
    escaped = int(child.log.read_text())
    child.kill()
    assert not gone(escaped)
    run_dir.close()
    assert gone(escaped)


def test_a_folder_in_use_is_refused_with_the_owners_pid(run_dir: RunDir) -> None:
    with pytest.raises(StepFailed, match=f"in use by process {os.getpid()}"):
        RunDir(run_dir.path).open()


def test_what_a_crashed_run_left_is_ended_before_the_next_start(tmp_path: Path) -> None:
    crashed = RunDir(tmp_path / "service")
    crashed.open()
    child = shell(STUBBORN, crashed, grace_s=0.2)
    assert crashed._lock is not None
    crashed._lock.close()  # what the kernel does to a killed owner
    following = RunDir(tmp_path / "service")
    following.open()
    assert gone(child.pid)
    following.close()
    child.kill()


def test_what_is_swept_does_not_see_its_own_die_first(tmp_path: Path) -> None:
    """A keeper found a look later than its child has no moment in which it could tell of the child's end."""
    told = tmp_path / "told"
    keeper = subprocess.Popen(["sh", "-c", f"sleep 600; touch {told}"])
    assert wait_until(lambda: len(proctable.descendants({keeper.pid})) == 1, 30)
    looks = 0

    def find() -> set[int]:
        nonlocal looks
        looks += 1
        if looks == 1:
            return proctable.descendants({keeper.pid})
        wait_until(told.exists, 0.5)
        return {keeper.pid} if looks == 2 else set()

    try:
        proctable.sweep(find)
        assert keeper.wait(30) == -signal.SIGKILL
        assert not told.exists()
    finally:
        keeper.kill()


def test_a_recorded_pid_that_now_belongs_to_another_process_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        run_dir = RunDir(tmp_path / "service")
        run_dir.pid_dir.mkdir(parents=True)
        ticks = proctable.start_ticks(bystander.pid)
        assert ticks is not None
        record = {
            "pid": bystander.pid,
            "ticks": ticks - 1,
            "mark": f"{run_dir.path}#x",
            "signal": 15,
            "grace_s": 1,
        }
        (run_dir.pid_dir / "sleep.json").write_text(json.dumps(record))
        run_dir.open()
        run_dir.close()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


OWNER = """
import sys
from pathlib import Path
from devstack.procs import Child, Command
from devstack.rundir import RunDir
run_dir = RunDir(Path(sys.argv[1]))
run_dir.open()
run_dir.watch(remove=[Path(sys.argv[2])])
script = "setsid sleep 100 & echo $!; wait"
child = Child(Command("shell", ["sh", "-c", script], {"PATH": "/usr/bin:/bin"}, grace_s=1), run_dir)
child.wait_ready(lambda: child.log.read_text().strip().isdigit(), 30)
print(child.pid, child.log.read_text().strip(), flush=True)
sys.stdin.read()
"""


def test_kill_9_of_the_owner_ends_everything_that_it_started(tmp_path: Path) -> None:
    throw_away = tmp_path / "data"
    throw_away.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "service"), str(throw_away)],
        env={**ENV, "PYTHONPATH": str(checkout.ROOT / "bin")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner.stdin, owner.stdout:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert wait_until(lambda: all(gone(pid) for pid in pids) and not throw_away.exists(), 30)


def test_ports_are_free_and_never_given_twice() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == 50
    assert all(ports.LOWEST <= port < ports.HIGHEST for port in given)


def test_a_port_that_somebody_else_was_given_and_has_not_bound_yet_is_not_given_again() -> None:
    asked = "import sys; from devstack import ports; print(ports.free_port(), flush=True); sys.stdin.read()"
    env = {**ENV, "PYTHONPATH": str(checkout.ROOT / "bin")}
    argv = [sys.executable, "-c", asked]
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        assert ports.is_free(theirs) and not ports._ours(theirs)
    assert ports._ours(theirs), "it has ended"


def test_a_private_home_is_not_reachable_for_another_user(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    home.chmod(0o700)
    assert reachable(home / "project", os.getuid(), os.getgid())
    assert not reachable(home / "project", 54_321, 54_321)


def test_the_stand_in_folder_is_short_private_and_the_same_every_time(tmp_path: Path) -> None:
    deep = tmp_path / "d" / ("x" * 100)
    folder = substitute(deep, os.getuid())
    try:
        assert substitute(deep, os.getuid()) == folder
        assert len(str(folder)) < 40
        assert folder.stat().st_mode & 0o077 == 0
    finally:
        folder.rmdir()


KEEPER = """#!{python}
import socket, sys, time
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_keeper_with_an_empty_environment_is_known_by_its_socket(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("k")  # a socket's path must be short
    program = folder / "slurmstepd"
    program.write_text(KEEPER.format(python=sys.executable))
    program.chmod(0o755)
    (folder / "home").mkdir()
    with subprocess.Popen(
        [str(program), str(folder / "home" / "gpu01_1.0")], env={}, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        try:
            assert proctable.keepers(str(folder / "home")) == {keeper.pid}
            assert proctable.keepers(str(folder / "hom")) == set()
            assert keeper.pid not in leash.leftovers("/another#", str(folder / "slurm.conf.d" / "slurm.conf"))
            assert leash.leftovers("/another#", str(folder / "home" / "slurm.conf")) == {keeper.pid}
        finally:
            keeper.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes mount namespaces")
def test_mounts_that_belong_to_a_process_tell_all_that_it_leaves_and_our_own_tell_nothing() -> None:
    script = "env -i setsid sleep 600 & echo $!; wait"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as inside:
        assert inside.stdout is not None
        escaped = int(inside.stdout.readline())
        mounts = proctable.Mounts([inside.pid, os.getpid()])
        try:
            inside.kill()
            inside.wait()
            assert mounts.processes() == {escaped}
            outside = proctable.Mounts([escaped], besides={proctable.mounts_of(escaped)})
            assert outside.processes() == set()
            outside.close()
            proctable.sweep(mounts.processes)
            assert gone(escaped)
        finally:
            mounts.close()
    assert mounts.processes() == set()
